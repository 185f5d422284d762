package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

// APIServer is where Kubernetes' API is, and the files to authenticate with.
type APIServer struct {
	URL         string `json:"url"`
	Authority   string `json:"authority"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// identityLabel is carried by the pods that get an identity, in the clusters of Network Service Mesh.
const identityLabel = "spiffe.io/spiffe-id"

const apiTimeout = 5 * time.Second

// pods asks the API server for the pods of all nodes.
type pods struct {
	url    string
	client http.Client
}

// pod as far as its identity needs.
type pod struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	UID       string            `json:"uid"`
	Labels    map[string]string `json:"labels"`
}

func newPods(server *APIServer) (*pods, error) {
	certificate, err := tls.LoadX509KeyPair(server.Certificate, server.Key)
	if err != nil {
		return nil, fmt.Errorf("apiServer: %w", err)
	}
	authority, err := os.ReadFile(server.Authority)
	if err != nil {
		return nil, fmt.Errorf("apiServer: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("apiServer: authority: %s holds no certificate in PEM", server.Authority)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		Certificates: []tls.Certificate{certificate},
		RootCAs:      roots,
		MinVersion:   tls.VersionTLS12,
	}}
	return &pods{url: server.URL, client: http.Client{Transport: transport, Timeout: apiTimeout}}, nil
}

// find returns the pod with a UID, if it is one that gets an identity.
func (p *pods) find(ctx context.Context, uid string) (pod, error) {
	list, err := p.list(ctx)
	if err != nil {
		return pod{}, err
	}
	for _, candidate := range list {
		switch {
		case candidate.UID != uid:
		case candidate.Labels[identityLabel] != "true":
			return pod{}, fmt.Errorf("the pod %s of %s has no label %s: \"true\"",
				candidate.Name, candidate.Namespace, identityLabel)
		default:
			return candidate, nil
		}
	}
	return pod{}, fmt.Errorf("there is no pod with the UID %s", uid)
}

func (p *pods) list(ctx context.Context) (found []pod, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/api/v1/pods", nil)
	if err != nil {
		return nil, fmt.Errorf("list the pods: %w", err)
	}
	answer, err := p.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("list the pods: %w", err)
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("list the pods: %s: %s", request.URL, answer.Status)
	}
	var list struct {
		Items []struct {
			Metadata pod `json:"metadata"`
		} `json:"items"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("list the pods: %w", err)
	}
	for _, item := range list.Items {
		found = append(found, item.Metadata)
	}
	return found, nil
}
