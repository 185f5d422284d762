package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"vl3-lb.io/tests/nsm/mesh/dataplane"
)

// serve answers HTTP on the socket "control" in the folder. Answers are JSON; an error is {"error": "..."}.
func (m *mesh) serve(ctx context.Context, failed chan<- error) error {
	path := filepath.Join(m.folder, "control")
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen for commands: %w", err)
	}
	mux := http.NewServeMux()
	for pattern, handler := range map[string]func(*http.Request) (any, error){
		"GET /state":                  m.showState,
		"POST /parts":                 m.addPart,
		"GET /connections/{node}":     m.showConnections,
		"GET /parts/{name}":           m.showPart,
		"DELETE /parts/{name}":        m.removePart,
		"POST /parts/{name}/{action}": m.changePart,
		"POST /identities/{name}":     m.addIdentity,
		"POST /pods":                  m.addPod,
		"POST /svid/rotate":           m.rotateSVIDs,
		"POST /ca/rotate":             m.rotateRoot,
		"POST /dataplane/{state}":     m.changeDataplane,
	} {
		mux.HandleFunc(pattern, answer(handler))
	}
	server := &http.Server{Handler: mux}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("serve commands on %s: %w", path, err)
		}
	}()
	return nil
}

func answer(handler func(*http.Request) (any, error)) http.HandlerFunc {
	return func(writer http.ResponseWriter, request *http.Request) {
		result, err := handler(request)
		status := http.StatusOK
		if err != nil {
			status = http.StatusBadRequest
			result = map[string]string{"error": err.Error()}
		}
		encoded, err := json.Marshal(result)
		if err != nil {
			http.Error(writer, err.Error(), http.StatusInternalServerError)
			return
		}
		writer.Header().Set("Content-Type", "application/json")
		writer.WriteHeader(status)
		_, _ = writer.Write(append(encoded, '\n'))
	}
}

func (m *mesh) showState(*http.Request) (any, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	var parts []status
	for _, part := range m.parts {
		parts = append(parts, part.status())
	}
	slices.SortFunc(parts, func(one, other status) int { return strings.Compare(one.Name, other.Name) })
	return map[string]any{
		"service": m.service,
		"router":  m.networks.router.Path(),
		"cluster": m.networks.cluster.Path(),
		"parts":   parts,
	}, nil
}

func (m *mesh) addPart(request *http.Request) (any, error) {
	var spec Spec
	if err := readBody(request, &spec); err != nil {
		return nil, err
	}
	part, err := m.add(spec)
	if err != nil {
		return nil, err
	}
	return part.status(), nil
}

func (m *mesh) showPart(request *http.Request) (any, error) {
	part, err := m.part(request.PathValue("name"))
	if err != nil {
		return nil, err
	}
	return part.status(), nil
}

// removePart ends a part with SIGTERM, a client with a Close, and forgets it.
func (m *mesh) removePart(request *http.Request) (any, error) {
	part, err := m.part(request.PathValue("name"))
	if err != nil {
		return nil, err
	}
	if part.running() {
		if err := part.stop(syscall.SIGTERM); err != nil {
			return nil, err
		}
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	delete(m.parts, part.spec.Name)
	return part.status(), nil
}

func (m *mesh) changePart(request *http.Request) (any, error) {
	part, err := m.part(request.PathValue("name"))
	if err != nil {
		return nil, err
	}
	switch action := request.PathValue("action"); action {
	case "start":
		err = part.start(m.starter)
	case "stop":
		err = part.stop(syscall.SIGTERM)
	case "kill":
		err = part.stop(syscall.SIGKILL)
	case "restart":
		if err = part.stop(syscall.SIGKILL); err == nil {
			err = part.start(m.starter)
		}
	case "pause":
		err = part.signal(syscall.SIGSTOP)
	case "resume":
		err = part.signal(syscall.SIGCONT)
	default:
		// Any other is a command to the part itself, with the body as its argument.
		var argument json.RawMessage
		if err = readBody(request, &argument); err == nil {
			err = part.ask(action, argument)
		}
	}
	if err != nil {
		return nil, err
	}
	return part.status(), nil
}

// addIdentity makes a Workload API for a pod that is no part, such as the balancer's.
func (m *mesh) addIdentity(request *http.Request) (any, error) {
	namespace := request.URL.Query().Get("namespace")
	if namespace == "" {
		namespace = podNamespace
	}
	socket, err := m.identity(namespace, request.PathValue("name"))
	return map[string]string{"socket": socket}, err
}

// addPod gives a network namespace an interface in the cluster network.
func (m *mesh) addPod(request *http.Request) (any, error) {
	var body struct {
		Netns string `json:"netns"`
	}
	if err := readBody(request, &body); err != nil {
		return nil, err
	}
	pod, err := dataplane.OpenNetns(body.Netns)
	if err != nil {
		return nil, err
	}
	defer func() { _ = pod.Close() }()
	address, err := m.networks.attachPod(pod)
	return map[string]string{"address": address.String()}, err
}

func (m *mesh) rotateSVIDs(*http.Request) (any, error) {
	m.authority.RotateSVIDs()
	return struct{}{}, nil
}

func (m *mesh) rotateRoot(request *http.Request) (any, error) {
	return struct{}{}, m.authority.RotateRoot(request.URL.Query().Has("retire"))
}

func (m *mesh) changeDataplane(request *http.Request) (any, error) {
	router := m.networks.router
	switch state := request.PathValue("state"); state {
	case "alive":
		return struct{}{}, dataplane.SetForwarding(router, true)
	case "dead":
		return struct{}{}, dataplane.SetForwarding(router, false)
	case "lost":
		return struct{}{}, dataplane.RemoveLinks(router)
	default:
		return nil, fmt.Errorf("the data plane is alive, dead or lost, not %q", state)
	}
}

func readBody(request *http.Request, into any) error {
	body, err := io.ReadAll(io.LimitReader(request.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	if len(body) == 0 {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	return nil
}
