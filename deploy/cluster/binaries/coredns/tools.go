//go:build tools

// Package coredns names the programs to build, so that `go mod tidy` keeps what they need.
package coredns

import (
	_ "github.com/coredns/coredns"
)
