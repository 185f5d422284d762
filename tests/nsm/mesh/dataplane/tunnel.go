package dataplane

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The port of VXLAN (RFC 7348, section 5).
const vxlanPort = 4789

// vxlanOverhead of a packet: the inner Ethernet header, and those of VXLAN, UDP and IPv4.
const vxlanOverhead = 14 + 8 + 8 + 20

// Tunnel is the way of one connection between the forwarders of two nodes: a VXLAN of its own.
type Tunnel struct {
	VNI    uint32
	Local  net.IP
	Remote net.IP
}

// TunnelMTU is the largest IP packet that fits through a tunnel from an address of this namespace.
func TunnelMTU(local net.IP) (int, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return 0, fmt.Errorf("list the interfaces: %w", err)
	}
	for _, link := range links {
		addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return 0, fmt.Errorf("list the addresses of %s: %w", link.Attrs().Name, err)
		}
		for _, address := range addresses {
			if address.IP.Equal(local) {
				return link.Attrs().MTU - vxlanOverhead, nil
			}
		}
	}
	return 0, fmt.Errorf("no interface has the address %s", local)
}

// AttachRemote makes the interface in the client's namespace and connects it with the tunnel, by a bridge in the
// namespace of this process. An existing one of the same connection is brought up to date.
func AttachRemote(client *Netns, wanted *Interface, tunnel *Tunnel) error {
	return withHandle(client, func(inner *netlink.Handle) error {
		outer, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open a netlink socket: %w", err)
		}
		defer outer.Close()
		if err := wanted.addPair(client, inner, outer); err != nil {
			return err
		}
		if err := tunnel.add(outer, wanted.tunnelName(), wanted.Connection, nil); err != nil {
			return err
		}
		if err := wanted.bridge(outer); err != nil {
			return err
		}
		link, err := wanted.raise(inner, wanted.Name)
		if err != nil {
			return err
		}
		if err := wanted.setAddresses(inner, link); err != nil {
			return err
		}
		return wanted.setClientRoutes(inner, link)
	})
}

// AttachTunnel makes the tunnel's end in the router: where the connection of a client of another node comes out.
func AttachTunnel(router *Netns, wanted *Interface, tunnel *Tunnel) error {
	return withHandle(router, func(handle *netlink.Handle) error {
		if err := tunnel.add(handle, wanted.routerName(), wanted.Connection, router); err != nil {
			return err
		}
		link, err := wanted.raise(handle, wanted.routerName())
		if err != nil {
			return err
		}
		return setRoutes(handle, link, wanted.RouterRoutes, nil)
	})
}

// DetachTunnel removes the tunnel's end from the router; one that is gone already is no error.
func DetachTunnel(router *Netns, wanted *Interface) error {
	return withHandle(router, func(handle *netlink.Handle) error { return removeLink(handle, wanted.routerName()) })
}

// AttachLocal makes the interface in the client's namespace and its other end in the router of an endpoint on this
// node. An existing one of the same connection is brought up to date.
func AttachLocal(client, router *Netns, wanted *Interface) error {
	return withHandle(client, func(inner *netlink.Handle) error {
		return withHandle(router, func(outer *netlink.Handle) error {
			if err := wanted.addPair(client, inner, outer); err != nil {
				return err
			}
			return wanted.configure(inner, outer)
		})
	})
}

// DetachClient removes the interface of the connection from the client's namespace, and by that its other end.
func DetachClient(client *Netns, wanted *Interface) error {
	return withHandle(client, func(inner *netlink.Handle) error {
		link, err := inner.LinkByName(wanted.Name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find %s of the client: %w", wanted.Name, err)
		}
		// Of a later connection.
		if link.Attrs().Alias != wanted.Connection {
			return nil
		}
		return removeLink(inner, wanted.Name)
	})
}

// DetachRemote removes what AttachRemote made in the namespace of this process.
func DetachRemote(wanted *Interface) error {
	outer, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer outer.Close()
	return errors.Join(removeLink(outer, wanted.tunnelName()), removeLink(outer, wanted.bridgeName()))
}

// tunnelName of a connection on the client's node.
func (i *Interface) tunnelName() string { return "v" + i.routerName()[1:] }

func (i *Interface) bridgeName() string { return "b" + i.routerName()[1:] }

// addPair makes the veth pair between the client and the namespace of outer.
func (i *Interface) addPair(client *Netns, inner, outer *netlink.Handle) error {
	link, err := inner.LinkByName(i.Name)
	if err == nil && link.Attrs().Alias != i.Connection {
		return fmt.Errorf("the client has an interface %s already, with the alias %q", i.Name, link.Attrs().Alias)
	}
	if err == nil {
		_, err = outer.LinkByName(i.routerName())
		if err == nil {
			return nil
		}
		// Its other end is elsewhere: of a forwarder before this one, or of another path.
		if err := removeLink(inner, i.Name); err != nil {
			return err
		}
	}
	if !errors.As(err, &netlink.LinkNotFoundError{}) {
		return fmt.Errorf("find the interface of the client: %w", err)
	}
	if err := removeLink(outer, i.routerName()); err != nil {
		return err
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = i.routerName()
	attributes.MTU = i.MTU
	pair := &netlink.Veth{LinkAttrs: attributes, PeerName: i.Name, PeerNamespace: netlink.NsFd(client.Descriptor())}
	if err := outer.LinkAdd(pair); err != nil {
		return fmt.Errorf("make the veth pair %s of the client, %s of the forwarder: %w", i.Name, i.routerName(), err)
	}
	if link, err = inner.LinkByName(i.Name); err != nil {
		return fmt.Errorf("find the new interface %s: %w", i.Name, err)
	}
	if err := inner.LinkSetAlias(link, i.Connection); err != nil {
		return fmt.Errorf("set the alias of %s: %w", i.Name, err)
	}
	return nil
}

// bridge connects the forwarder's end of the pair with the tunnel.
func (i *Interface) bridge(outer *netlink.Handle) error {
	bridge, err := outer.LinkByName(i.bridgeName())
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = i.bridgeName()
		if err = outer.LinkAdd(&netlink.Bridge{LinkAttrs: attributes}); err == nil {
			bridge, err = outer.LinkByName(i.bridgeName())
		}
	}
	if err != nil {
		return fmt.Errorf("make the bridge %s: %w", i.bridgeName(), err)
	}
	for _, name := range []string{i.routerName(), i.tunnelName()} {
		port, err := i.raise(outer, name)
		if err != nil {
			return err
		}
		if port.Attrs().MasterIndex == bridge.Attrs().Index {
			continue
		}
		if err := outer.LinkSetMaster(port, bridge); err != nil {
			return fmt.Errorf("add %s to the bridge %s: %w", name, i.bridgeName(), err)
		}
	}
	if err := outer.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("set %s up: %w", i.bridgeName(), err)
	}
	return nil
}

// add makes the VXLAN device. Its packets leave by the namespace of this process, also when it is moved into another.
func (t *Tunnel) add(handle *netlink.Handle, name, alias string, into *Netns) error {
	link, err := handle.LinkByName(name)
	if present, isTunnel := link.(*netlink.Vxlan); err == nil && isTunnel &&
		present.VxlanId == int(t.VNI) && present.Group.Equal(t.Remote) && present.SrcAddr.Equal(t.Local) {
		return nil
	}
	if err == nil {
		err = removeLink(handle, name)
	} else if errors.As(err, &netlink.LinkNotFoundError{}) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("replace the tunnel %s: %w", name, err)
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = name
	device := &netlink.Vxlan{
		LinkAttrs: attributes,
		VxlanId:   int(t.VNI),
		SrcAddr:   t.Local,
		Group:     t.Remote,
		Port:      vxlanPort,
		Learning:  true,
	}
	if err := netlink.LinkAdd(device); err != nil {
		return fmt.Errorf("make the tunnel %s with VNI %d to %s: %w", name, t.VNI, t.Remote, err)
	}
	if into != nil {
		if err := netlink.LinkSetNsFd(device, into.Descriptor()); err != nil {
			return errors.Join(fmt.Errorf("move the tunnel %s to the router: %w", name, err), netlink.LinkDel(device))
		}
	}
	if link, err = handle.LinkByName(name); err != nil {
		return fmt.Errorf("find the new tunnel %s: %w", name, err)
	}
	if err := handle.LinkSetAlias(link, alias); err != nil {
		return fmt.Errorf("set the alias of %s: %w", name, err)
	}
	return nil
}

// removeLink removes an interface; one that is gone already is no error.
func removeLink(handle *netlink.Handle, name string) error {
	link, err := handle.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := handle.LinkDel(link); err != nil && err != unix.ENODEV {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}
