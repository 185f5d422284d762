package dataplane

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const clusterBridge = "cluster0"

// Cluster is the network that nodes and pods have besides the vL3 network: a bridge in a namespace, whose addresses
// are those of the nodes.
type Cluster struct {
	*Netns
	mask int
}

// NewCluster makes it with these addresses.
func NewCluster(mask int, addresses []string) (*Cluster, error) {
	namespace, err := NewNetns()
	if err != nil {
		return nil, err
	}
	if err := LoopbackUp(namespace); err != nil {
		return nil, err
	}
	cluster := &Cluster{Netns: namespace, mask: mask}
	return cluster, withHandle(namespace, func(handle *netlink.Handle) error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = clusterBridge
		bridge := &netlink.Bridge{LinkAttrs: attributes}
		if err := handle.LinkAdd(bridge); err != nil {
			return fmt.Errorf("make the bridge of the cluster network: %w", err)
		}
		for _, address := range addresses {
			if err := handle.AddrAdd(bridge, &netlink.Addr{IPNet: cluster.network(net.ParseIP(address))}); err != nil {
				return fmt.Errorf("add %s to the cluster network: %w", address, err)
			}
		}
		if err := handle.LinkSetUp(bridge); err != nil {
			return fmt.Errorf("set the bridge of the cluster network up: %w", err)
		}
		return nil
	})
}

func (c *Cluster) network(address net.IP) *net.IPNet {
	return &net.IPNet{IP: address.To4(), Mask: net.CIDRMask(c.mask, 32)}
}

// AttachPod gives a namespace an interface eth0 with this address and a default route.
func (c *Cluster) AttachPod(pod *Netns, address, gateway net.IP) error {
	name := "p" + fmt.Sprintf("%02x%02x", address.To4()[2], address.To4()[3])
	err := withHandle(c.Netns, func(handle *netlink.Handle) error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = name
		pair := &netlink.Veth{LinkAttrs: attributes, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.Descriptor())}
		if err := handle.LinkAdd(pair); err != nil {
			return fmt.Errorf("make the interface eth0 of a pod: %w", err)
		}
		link, err := handle.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		bridge, err := handle.LinkByName(clusterBridge)
		if err != nil {
			return fmt.Errorf("find %s: %w", clusterBridge, err)
		}
		if err := handle.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("add %s to the bridge: %w", name, err)
		}
		return handle.LinkSetUp(link)
	})
	if err != nil {
		return err
	}
	return withHandle(pod, func(handle *netlink.Handle) error {
		link, err := handle.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("find eth0 of the pod: %w", err)
		}
		if err := handle.AddrAdd(link, &netlink.Addr{IPNet: c.network(address)}); err != nil {
			return fmt.Errorf("add %s to eth0: %w", address, err)
		}
		if err := handle.LinkSetUp(link); err != nil {
			return fmt.Errorf("set eth0 up: %w", err)
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway}
		if err := handle.RouteAdd(route); err != nil && err != unix.EEXIST {
			return fmt.Errorf("add the default route of the pod: %w", err)
		}
		return nil
	})
}
