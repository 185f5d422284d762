package dataplane

import (
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
)

// Plane is a forwarder's data plane: interfaces between clients and one router.
type Plane struct {
	router *Netns
	link   Link

	// One change at a time: two clients may ask for one name.
	mutex sync.Mutex
	// TUN devices of this process, by connection.
	tuns map[string]*tunPair
}

// New makes the data plane around an existing router.
func New(router *Netns, link Link) (*Plane, error) {
	if link != Veth && link != Tun {
		return nil, fmt.Errorf("link: %q is neither %q nor %q", link, Veth, Tun)
	}
	return &Plane{router: router, link: link, tuns: make(map[string]*tunPair)}, nil
}

// Attach makes the interface in the client's namespace, or brings an existing one of the same connection up to date.
func (p *Plane) Attach(client *Netns, wanted *Interface) error {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return withHandle(client, func(inner *netlink.Handle) error {
		return withHandle(p.router, func(outer *netlink.Handle) error {
			whole, err := p.whole(inner, outer, wanted)
			if err != nil {
				return err
			}
			if !whole {
				if err := p.remove(outer, wanted); err != nil {
					return err
				}
				if err := p.add(client, inner, outer, wanted); err != nil {
					return err
				}
			}
			return wanted.configure(inner, outer)
		})
	})
}

// Detach removes the interface; one that is gone already is no error.
func (p *Plane) Detach(wanted *Interface) error {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return withHandle(p.router, func(outer *netlink.Handle) error { return p.remove(outer, wanted) })
}

// whole reports whether both ends are there and belong to the connection. An interface of somebody else is an error.
func (p *Plane) whole(inner, outer *netlink.Handle, wanted *Interface) (bool, error) {
	link, err := inner.LinkByName(wanted.Name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find %s of the client: %w", wanted.Name, err)
	}
	if alias := link.Attrs().Alias; alias != wanted.Connection {
		return false, fmt.Errorf("the client has an interface %s already, with the alias %q", wanted.Name, alias)
	}
	_, err = outer.LinkByName(wanted.routerName())
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, nil
	}
	return err == nil && link.Type() == map[Link]string{Veth: "veth", Tun: "tuntap"}[p.link], err
}

func (p *Plane) add(client *Netns, inner, outer *netlink.Handle, wanted *Interface) error {
	switch p.link {
	case Tun:
		pair, err := newTunPair(client, wanted.Name, p.router, wanted.routerName())
		if err != nil {
			return err
		}
		p.tuns[wanted.Connection] = pair
	case Veth:
		attributes := netlink.NewLinkAttrs()
		attributes.Name = wanted.routerName()
		attributes.MTU = wanted.MTU
		pair := &netlink.Veth{
			LinkAttrs:     attributes,
			PeerName:      wanted.Name,
			PeerNamespace: netlink.NsFd(client.Descriptor()),
		}
		if err := outer.LinkAdd(pair); err != nil {
			return fmt.Errorf("make the veth pair %s of the client, %s of the router: %w",
				wanted.Name, wanted.routerName(), err)
		}
	}
	for _, end := range []struct {
		handle *netlink.Handle
		name   string
	}{{outer, wanted.routerName()}, {inner, wanted.Name}} {
		link, err := end.handle.LinkByName(end.name)
		if err != nil {
			return fmt.Errorf("find the new interface %s: %w", end.name, err)
		}
		if err := end.handle.LinkSetAlias(link, wanted.Connection); err != nil {
			return fmt.Errorf("set the alias of %s: %w", end.name, err)
		}
	}
	return nil
}

func (p *Plane) remove(outer *netlink.Handle, wanted *Interface) error {
	if pair := p.tuns[wanted.Connection]; pair != nil {
		delete(p.tuns, wanted.Connection)
		return pair.close()
	}
	return removeLink(outer, wanted.routerName())
}
