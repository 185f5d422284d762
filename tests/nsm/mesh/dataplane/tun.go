package dataplane

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tunPair is two TUN devices that this process copies packets between: what leaves one arrives at the other. They
// are gone with the process, like those of VPP.
type tunPair struct {
	inner, outer *os.File
}

func newTunPair(client *Netns, name string, router *Netns, routerName string) (*tunPair, error) {
	inner, err := openTun(client, name)
	if err != nil {
		return nil, err
	}
	outer, err := openTun(router, routerName)
	if err != nil {
		return nil, errors.Join(err, inner.Close())
	}
	go copyPackets(outer, inner)
	go copyPackets(inner, outer)
	return &tunPair{inner: inner, outer: outer}, nil
}

func openTun(namespace *Netns, name string) (*os.File, error) {
	var device *os.File
	err := namespace.Run(func() error {
		// The runtime's poller wants a descriptor that does not block.
		descriptor, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		var request struct {
			name  [unix.IFNAMSIZ]byte
			flags uint16
			_     [22]byte
		}
		copy(request.name[:unix.IFNAMSIZ-1], name)
		request.flags = unix.IFF_TUN | unix.IFF_NO_PI
		if _, _, number := unix.Syscall(unix.SYS_IOCTL, uintptr(descriptor), unix.TUNSETIFF,
			uintptr(unsafe.Pointer(&request))); number != 0 {
			return errors.Join(fmt.Errorf("make the TUN device %s: %w", name, number), unix.Close(descriptor))
		}
		device = os.NewFile(uintptr(descriptor), "/dev/net/tun")
		return nil
	})
	return device, err
}

func copyPackets(to, from *os.File) {
	packet := make([]byte, 1<<16)
	for {
		length, err := from.Read(packet)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			// Removed together with its namespace.
			if errors.Is(err, unix.EBADFD) {
				return
			}
			// The device is down, and reading fails at once.
			time.Sleep(10 * time.Millisecond)
			continue
		}
		// A full queue or a device that is down drops, as a wire does.
		_, _ = to.Write(packet[:length])
	}
}

func (p *tunPair) close() error {
	return errors.Join(p.inner.Close(), p.outer.Close())
}
