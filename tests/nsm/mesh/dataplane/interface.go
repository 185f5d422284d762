package dataplane

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Link is the type of a client's interface.
type Link string

// The two types of the VPP forwarder: a veth pair with static neighbours, and a TUN device without Ethernet header.
const (
	Veth Link = "veth"
	Tun  Link = "tun"
)

// Interface is what a client gets.
type Interface struct {
	// Connection that it belongs to: its alias, and the name of the router's end.
	Connection string
	// Name in the client's namespace.
	Name string
	MTU  int
	// Addresses of the client, with their prefix lengths.
	Addresses []*net.IPNet
	// Gateways: the endpoint's own addresses, reachable without a gateway.
	Gateways []*net.IPNet
	// Routes of the client through the gateway of their family.
	Routes []*net.IPNet
	// RouterRoutes lead from the router to the client.
	RouterRoutes []*net.IPNet
}

// routerName of a connection's interface in the router.
func (i *Interface) routerName() string {
	sum := sha256.Sum256([]byte(i.Connection))
	return "c" + hex.EncodeToString(sum[:6])
}

// configure brings both ends into the wanted state and changes nothing that is in it already: a refresh causes no
// notifications.
func (i *Interface) configure(client, router *netlink.Handle) error {
	inner, err := i.raise(client, i.Name)
	if err != nil {
		return err
	}
	outer, err := i.raise(router, i.routerName())
	if err != nil {
		return err
	}
	if err := i.setAddresses(client, inner); err != nil {
		return err
	}
	if inner.Type() == "veth" {
		if err := setNeighbors(client, inner, i.Gateways, outer.Attrs().HardwareAddr); err != nil {
			return err
		}
		if err := setNeighbors(router, outer, i.Addresses, inner.Attrs().HardwareAddr); err != nil {
			return err
		}
	}
	if err := i.setClientRoutes(client, inner); err != nil {
		return err
	}
	return setRoutes(router, outer, i.RouterRoutes, nil)
}

// raise finds an interface, and gives it the MTU of the connection and the state "up".
func (i *Interface) raise(handle *netlink.Handle, name string) (netlink.Link, error) {
	link, err := handle.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find the interface %s: %w", name, err)
	}
	if link.Attrs().MTU != i.MTU {
		if err := handle.LinkSetMTU(link, i.MTU); err != nil {
			return nil, fmt.Errorf("set the MTU of %s to %d: %w", name, i.MTU, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := handle.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("set %s up: %w", name, err)
		}
	}
	return link, nil
}

func (i *Interface) setClientRoutes(client *netlink.Handle, inner netlink.Link) error {
	if err := setRoutes(client, inner, i.Gateways, nil); err != nil {
		return err
	}
	return setRoutes(client, inner, i.Routes, i.Gateways)
}

func (i *Interface) setAddresses(client *netlink.Handle, link netlink.Link) error {
	present, err := client.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the addresses of %s: %w", i.Name, err)
	}
	for _, address := range present {
		if address.IP.IsLinkLocalUnicast() || contains(i.Addresses, address.IPNet) {
			continue
		}
		if err := client.AddrDel(link, &address); err != nil {
			return fmt.Errorf("remove %s from %s: %w", address.IPNet, i.Name, err)
		}
	}
	for _, address := range i.Addresses {
		if presentAddress(present, address) {
			continue
		}
		// Nobody else on the link: duplicate address detection would only delay the address.
		if err := client.AddrAdd(link, &netlink.Addr{IPNet: address, Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("add %s to %s: %w", address, i.Name, err)
		}
	}
	return nil
}

func presentAddress(present []netlink.Addr, wanted *net.IPNet) bool {
	for _, address := range present {
		if address.IPNet.String() == wanted.String() {
			return true
		}
	}
	return false
}

func contains(networks []*net.IPNet, wanted *net.IPNet) bool {
	for _, network := range networks {
		if network.String() == wanted.String() {
			return true
		}
	}
	return false
}

func setNeighbors(handle *netlink.Handle, link netlink.Link, addresses []*net.IPNet, mac net.HardwareAddr) error {
	present, err := handle.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the neighbours of %s: %w", link.Attrs().Name, err)
	}
	known := make(map[string]bool)
	for _, neighbor := range present {
		if neighbor.State == netlink.NUD_PERMANENT && neighbor.HardwareAddr.String() == mac.String() {
			known[neighbor.IP.String()] = true
		}
	}
	for _, address := range addresses {
		if known[address.IP.String()] {
			continue
		}
		if err := handle.NeighSet(&netlink.Neigh{
			LinkIndex:    link.Attrs().Index,
			State:        netlink.NUD_PERMANENT,
			IP:           address.IP,
			HardwareAddr: mac,
		}); err != nil {
			return fmt.Errorf("set the neighbour %s of %s: %w", address.IP, link.Attrs().Name, err)
		}
	}
	return nil
}

// setRoutes adds routes by the link, through the gateway of their family if there are gateways.
func setRoutes(handle *netlink.Handle, link netlink.Link, prefixes, gateways []*net.IPNet) error {
	present, err := handle.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the routes of %s: %w", link.Attrs().Name, err)
	}
	for _, prefix := range prefixes {
		route := netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefix, Scope: netlink.SCOPE_LINK}
		for _, gateway := range gateways {
			if (gateway.IP.To4() == nil) == (prefix.IP.To4() == nil) {
				route.Gw = gateway.IP
				route.Scope = netlink.SCOPE_UNIVERSE
				route.SetFlag(netlink.FLAG_ONLINK)
			}
		}
		if presentRoute(present, &route) {
			continue
		}
		if err := handle.RouteReplace(&route); err != nil {
			return fmt.Errorf("add a route to %s by %s: %w", prefix, link.Attrs().Name, err)
		}
	}
	return nil
}

func presentRoute(present []netlink.Route, wanted *netlink.Route) bool {
	for _, route := range present {
		if route.Dst.String() == wanted.Dst.String() && route.Gw.Equal(wanted.Gw) {
			return true
		}
	}
	return false
}

// withHandle calls work with a netlink socket in a namespace.
func withHandle(namespace *Netns, work func(*netlink.Handle) error) error {
	handle, err := netlink.NewHandleAt(netns.NsHandle(namespace.Descriptor()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer handle.Close()
	return work(handle)
}
