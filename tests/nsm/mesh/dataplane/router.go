package dataplane

import (
	"fmt"
	"net"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NewRouter makes the namespace through which the clients of a vL3 network reach each other.
func NewRouter() (*Netns, error) {
	router, err := NewNetns()
	if err != nil {
		return nil, err
	}
	for path, value := range map[string]string{
		"net/ipv4/conf/all/forwarding":         "1",
		"net/ipv4/conf/all/rp_filter":          "0",
		"net/ipv4/conf/default/rp_filter":      "0",
		"net/ipv4/conf/all/send_redirects":     "0",
		"net/ipv4/conf/default/send_redirects": "0",
		"net/ipv6/conf/all/disable_ipv6":       "0",
		"net/ipv6/conf/default/disable_ipv6":   "0",
		"net/ipv6/conf/all/forwarding":         "1",
		// A test may ping as fast as it likes.
		"net/ipv4/icmp_ratelimit": "0",
	} {
		if err := router.Sysctl(path, value); err != nil {
			return nil, err
		}
	}
	if err := LoopbackUp(router); err != nil {
		return nil, err
	}
	return router, nil
}

// LoopbackUp enables the loopback interface of a new namespace.
func LoopbackUp(namespace *Netns) error {
	return withHandle(namespace, func(handle *netlink.Handle) error {
		loopback, err := handle.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		if err := handle.LinkSetUp(loopback); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
		return nil
	})
}

// SetSelfAddress lets the router answer pings to an endpoint's address, or no longer.
func SetSelfAddress(router *Netns, address *net.IPNet, present bool) error {
	return withHandle(router, func(handle *netlink.Handle) error {
		loopback, err := handle.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo of the router: %w", err)
		}
		entry := &netlink.Addr{IPNet: address, Flags: unix.IFA_F_NODAD}
		if present {
			err = handle.AddrReplace(loopback, entry)
		} else if err = handle.AddrDel(loopback, entry); err == unix.EADDRNOTAVAIL {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("change the router's address %s: %w", address, err)
		}
		return nil
	})
}

// The table that drops everything.
const deadTable = `table inet dead {
	chain prerouting {
		type filter hook prerouting priority -400; policy drop;
	}
}
`

// SetForwarding lets the router carry packets and answer pings, or drops all: the network is dead while the clients'
// interfaces stay up.
func SetForwarding(router *Netns, enabled bool) error {
	// Whether there is one or not: nft knows "destroy" only since 1.0.8.
	rules := "add table inet dead\ndelete table inet dead\n"
	if !enabled {
		rules += deadTable
	}
	return router.Run(func() error {
		command := exec.Command("nft", "-f", "-")
		command.Stdin = strings.NewReader(rules)
		if output, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("change the router's filter with nft: %w: %s", err, output)
		}
		return nil
	})
}

// RemoveLinks removes the interfaces of all clients, as the death of a forwarder's VPP does.
func RemoveLinks(router *Netns) error {
	return withHandle(router, func(handle *netlink.Handle) error {
		links, err := handle.LinkList()
		if err != nil {
			return fmt.Errorf("list the router's interfaces: %w", err)
		}
		for _, link := range links {
			if link.Attrs().Name == "lo" {
				continue
			}
			if err := handle.LinkDel(link); err != nil && err != unix.ENODEV {
				return fmt.Errorf("remove %s: %w", link.Attrs().Name, err)
			}
		}
		return nil
	})
}
