//go:build tools

// Package controllermanager names the program to build, so that `go mod tidy` keeps what it needs.
package controllermanager

import _ "github.com/spiffe/spire-controller-manager/cmd"
