package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"time"
)

// Part is what the configurations of all parts have in common.
type Part struct {
	// Name of the part, and of its segment in a connection's path.
	Name string `json:"name"`
	// WorkloadAPI is the URL of the socket that gives the part its SVID.
	WorkloadAPI string `json:"workloadApi"`
	// MaxTokenLifetime bounds the tokens that the part signs. Default: 10 minutes.
	MaxTokenLifetime Duration `json:"maxTokenLifetime,omitempty"`
	// DialTimeout bounds the connecting to other parts. Default: 750 ms, as in the NSM programs.
	DialTimeout Duration `json:"dialTimeout,omitempty"`
	// LogLevel of the SDK's messages on stderr. Default: info.
	LogLevel string `json:"logLevel,omitempty"`
}

// TokenLifetime is the longest life of a token.
func (p *Part) TokenLifetime() time.Duration {
	return p.MaxTokenLifetime.Value(10 * time.Minute)
}

// DialLimit is the longest time of connecting to another part.
func (p *Part) DialLimit() time.Duration {
	return p.DialTimeout.Value(750 * time.Millisecond)
}

// Read parses a part's configuration and refuses unknown fields.
func Read(text string, into any) error {
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("read the configuration %q: %w", text, err)
	}
	return nil
}

// URL parses a URL of the configuration.
func URL(field, text string) (*url.URL, error) {
	parsed, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if parsed.Scheme != "unix" && parsed.Scheme != "tcp" {
		return nil, fmt.Errorf("%s: %q is no unix:// or tcp:// URL", field, text)
	}
	return parsed, nil
}
