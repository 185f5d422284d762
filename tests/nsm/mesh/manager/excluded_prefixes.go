package manager

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The parent of the folder of the file with excluded prefixes, which the chain creates and watches; the SDK cannot be
// told another.
const stateFolder = "/var/lib"

// keepExcludedPrefixes keeps that folder away from the machine, where this process has a mount namespace of its own.
// In a pod it has not, and the file system is the pod's.
func keepExcludedPrefixes() error {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return fmt.Errorf("read the mount namespace: %w", err)
	}
	parent, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()))
	if err != nil || parent == own {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", stateFolder, "tmpfs", 0, "size=1m"); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", stateFolder, err)
	}
	return nil
}
