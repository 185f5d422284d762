// Package webhook gives a pod with the annotation networkservicemesh.io a client of the SDK beside its own containers:
// what the admission webhook of Network Service Mesh does.
package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"

	"vl3-lb.io/tests/nsm/mesh/config"
	"vl3-lb.io/tests/nsm/mesh/part"
)

// Config of the webhook.
type Config struct {
	// ListenOn is an address and a port.
	ListenOn string `json:"listenOn"`
	// Certificate and Key of the HTTPS server: files.
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	// Image with this program.
	Image string `json:"image"`
	// LogLevel of messages on stderr. Default: info.
	LogLevel string `json:"logLevel,omitempty"`
}

// An API server waits ten seconds by default.
const timeout = 10 * time.Second

// Run serves until the process is asked to end.
func Run(text string) error {
	var configuration Config
	if err := config.Read(text, &configuration); err != nil {
		return err
	}
	process, ctx, cancel, err := part.Start(configuration.LogLevel)
	if err != nil {
		return err
	}
	defer cancel()
	server := http.Server{
		Addr:              configuration.ListenOn,
		Handler:           http.HandlerFunc(configuration.review),
		ReadHeaderTimeout: timeout,
	}
	go func() {
		<-ctx.Done()
		_ = server.Shutdown(context.WithoutCancel(ctx))
	}()
	if err := process.Report(map[string]string{"listenOn": configuration.ListenOn}); err != nil {
		return err
	}
	err = server.ListenAndServeTLS(configuration.Certificate, configuration.Key)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", configuration.ListenOn, err)
}

// The part of Kubernetes' AdmissionReview (admission.k8s.io/v1) that is needed.
type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *request  `json:"request,omitempty"`
	Response   *response `json:"response,omitempty"`
}

type request struct {
	UID    string `json:"uid"`
	Object pod    `json:"object"`
}

type response struct {
	UID     string `json:"uid"`
	Allowed bool   `json:"allowed"`
	// Patch is a JSON patch (RFC 6902), in base64.
	Patch     []byte   `json:"patch,omitempty"`
	PatchType string   `json:"patchType,omitempty"`
	Status    *problem `json:"status,omitempty"`
}

type problem struct {
	Message string `json:"message"`
}

func (c *Config) review(writer http.ResponseWriter, from *http.Request) {
	var asked review
	if err := json.NewDecoder(from.Body).Decode(&asked); err != nil || asked.Request == nil {
		http.Error(writer, "the body is no AdmissionReview with a request", http.StatusBadRequest)
		return
	}
	answer := &response{UID: asked.Request.UID, Allowed: true}
	patch, err := asked.Request.Object.patch(c.Image)
	switch {
	case err != nil:
		answer.Allowed = false
		answer.Status = &problem{Message: err.Error()}
	case patch != nil:
		answer.Patch, answer.PatchType = patch, "JSONPatch"
	}
	writer.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(writer).Encode(review{
		APIVersion: asked.APIVersion, Kind: asked.Kind, Response: answer,
	}); err != nil {
		logrus.Errorf("answer the API server: %v", err)
	}
}
