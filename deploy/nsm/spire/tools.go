//go:build tools

// Package spire names the programs to build, so that `go mod tidy` keeps what they need.
package spire

import (
	_ "github.com/spiffe/spire/cmd/spire-agent"
	_ "github.com/spiffe/spire/cmd/spire-server"
)
