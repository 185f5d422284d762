package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"vl3-lb.io/tests/nsm/mesh/authority"
	"vl3-lb.io/tests/nsm/mesh/dataplane"
)

const (
	systemNamespace = "nsm-system"
	podNamespace    = "default"
	firstEndpoint   = "nse-vl3-0"
)

// mesh is all that runs.
type mesh struct {
	*options
	networks  *networks
	authority *authority.Authority
	starter   *starter
	life      context.Context

	mutex sync.Mutex
	// By name.
	parts map[string]*child
	// Names of identities that have a socket.
	identities map[string]bool
}

// Run is `mesh up`: it starts everything and runs until a signal ends it, or its starter is gone.
func Run(arguments []string) error {
	options, err := parseOptions(arguments)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer cancel()
	if options.untilEOF {
		go func() {
			_, _ = os.Stdin.Read(make([]byte, 1))
			cancel()
		}()
	}
	unlock, err := takeFolder(options.folder)
	if err != nil {
		return err
	}
	defer unlock()
	mesh, err := newMesh(ctx, options)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	if err := mesh.serve(ctx, failed); err != nil {
		return err
	}
	quit := make(chan os.Signal, 1)
	signal.Notify(quit, syscall.SIGQUIT)
	if err := mesh.startAll(ctx); err != nil {
		return errors.Join(err, mesh.stopAll(syscall.SIGTERM))
	}
	fmt.Println("ready")
	farewell := syscall.SIGTERM
	select {
	case <-ctx.Done():
	case <-quit:
		farewell = syscall.SIGKILL
	case err = <-failed:
	}
	return errors.Join(err, mesh.stopAll(farewell))
}

// takeFolder claims the folder and removes what a killed mesh left in it.
func takeFolder(folder string) (func(), error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("another mesh runs in %s: %w", folder, err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if entry.Name() == "lock" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(folder, entry.Name())); err != nil {
			return nil, err
		}
	}
	return func() {
		_ = os.Remove(lock.Name())
		_ = lock.Close()
	}, nil
}

func newMesh(ctx context.Context, options *options) (*mesh, error) {
	networks, err := newNetworks(options)
	if err != nil {
		return nil, err
	}
	for name, netns := range map[string]*dataplane.Netns{"router": networks.router, "cluster": networks.cluster.Netns} {
		if err := os.Symlink(netns.Path(), filepath.Join(options.folder, name)); err != nil {
			return nil, err
		}
	}
	authority, err := authority.New(options.svidTTL)
	if err != nil {
		return nil, err
	}
	starter, err := newStarter()
	if err != nil {
		return nil, err
	}
	return &mesh{
		options:    options,
		networks:   networks,
		authority:  authority,
		starter:    starter,
		life:       ctx,
		parts:      make(map[string]*child),
		identities: make(map[string]bool),
	}, nil
}

// startAll starts the system's parts, in the order in which they need each other.
func (m *mesh) startAll(ctx context.Context) error {
	specs := []Spec{{Kind: "registry", Name: "registry"}}
	for index := range m.prefixes {
		specs = append(specs, Spec{Kind: "ipam", Name: fmt.Sprintf("ipam-%d", index)})
	}
	for node := range m.nodes {
		specs = append(specs, Spec{Kind: "manager", Name: fmt.Sprintf("nsmgr-%d", node), Node: node})
	}
	for node := range m.nodes {
		specs = append(specs, Spec{Kind: "forwarder", Name: fmt.Sprintf("forwarder-%d", node), Node: node})
	}
	for index := range m.endpoints {
		specs = append(specs, Spec{Kind: "endpoint", Name: fmt.Sprintf("nse-vl3-%d", index), Node: index % m.nodes})
	}
	for _, spec := range specs {
		if _, err := m.add(spec); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// stopAll ends the parts: clients first, so that they can close their connections.
func (m *mesh) stopAll(farewell syscall.Signal) error {
	order := []string{"client", "endpoint", "forwarder", "manager", "ipam", "registry"}
	m.mutex.Lock()
	parts := slices.Collect(maps.Values(m.parts))
	m.mutex.Unlock()
	var problems error
	for _, kind := range order {
		var group sync.WaitGroup
		for _, part := range parts {
			if part.spec.Kind == kind && part.running() {
				group.Go(func() { _ = part.stop(farewell) })
			}
		}
		group.Wait()
	}
	entries, err := os.ReadDir(m.folder)
	problems = errors.Join(problems, err)
	for _, entry := range entries {
		// The logs stay, for whoever wonders what happened.
		if entry.Name() != "log" {
			problems = errors.Join(problems, os.RemoveAll(filepath.Join(m.folder, entry.Name())))
		}
	}
	return problems
}

// add makes a part and starts it.
func (m *mesh) add(spec Spec) (*child, error) {
	if spec.Name == "" || filepath.Base(spec.Name) != spec.Name {
		return nil, fmt.Errorf("name: %q is no name of a part", spec.Name)
	}
	if spec.Node < 0 || spec.Node >= m.nodes {
		return nil, fmt.Errorf("node: %d, there are %d nodes", spec.Node, m.nodes)
	}
	netns, err := m.netnsOf(&spec)
	if err != nil {
		return nil, err
	}
	configuration, err := m.configuration(&spec)
	if err != nil {
		return nil, err
	}
	part := &child{
		spec:          spec,
		configuration: configuration,
		netns:         netns,
		log:           filepath.Join(m.folder, "log", spec.Name+".log"),
	}
	m.mutex.Lock()
	if m.parts[spec.Name] != nil {
		m.mutex.Unlock()
		return nil, fmt.Errorf("there is a part %s already", spec.Name)
	}
	m.parts[spec.Name] = part
	m.mutex.Unlock()
	return part, part.start(m.starter)
}

// netnsOf is where a part runs: clients in the pod that the caller made, endpoints in a pod of their own, and all
// others on their node.
func (m *mesh) netnsOf(spec *Spec) (*dataplane.Netns, error) {
	switch {
	case spec.Netns != "":
		return dataplane.OpenNetns(spec.Netns)
	case spec.Kind == "client":
		return nil, fmt.Errorf("netns: the network namespace of the client is missing")
	case spec.Kind == "endpoint":
		pod, err := dataplane.NewNetns()
		if err != nil {
			return nil, err
		}
		if err := dataplane.LoopbackUp(pod); err != nil {
			return nil, err
		}
		_, err = m.networks.attachPod(pod)
		return pod, err
	default:
		return m.networks.cluster.Netns, nil
	}
}

// configuration is the part's JSON: the defaults of its kind, and the fields of the spec.
func (m *mesh) configuration(spec *Spec) (string, error) {
	namespace := systemNamespace
	if spec.Kind == "client" {
		namespace = podNamespace
	}
	workloadAPI, err := m.identity(namespace, spec.Name)
	if err != nil {
		return "", err
	}
	fields := map[string]any{
		"name":             spec.Name,
		"workloadApi":      workloadAPI,
		"maxTokenLifetime": m.tokenLifetime.String(),
		"logLevel":         m.logLevel,
	}
	registry := "tcp://" + registryAddress + ":5002"
	switch spec.Kind {
	case "registry":
		maps.Copy(fields, map[string]any{"listenOn": registry, "expiration": m.expiration.String()})
	case "ipam":
		var index int
		if _, err := fmt.Sscanf(spec.Name, "ipam-%d", &index); err != nil || index >= len(m.prefixes) {
			return "", fmt.Errorf("name: %s is not ipam- and the number of a prefix", spec.Name)
		}
		maps.Copy(fields, map[string]any{"listenOn": prefixServer(index), "prefix": m.prefixes[index]})
	case "manager":
		maps.Copy(fields, map[string]any{
			"nodeName":        fmt.Sprintf("node-%d", spec.Node),
			"socket":          m.managerSocket(spec.Node),
			"publicUrl":       fmt.Sprintf("tcp://"+managerAddress+":5001", spec.Node),
			"registry":        registry,
			"expiration":      m.expiration.String(),
			"restrictMonitor": m.restrictMonitor,
		})
	case "forwarder":
		maps.Copy(fields, map[string]any{
			"connectTo": m.managerSocket(spec.Node),
			"socket":    m.partSocket(spec.Name),
			"router":    m.networks.router.Path(),
			"link":      string(m.link),
		})
	case "endpoint":
		var servers []string
		for index := range m.prefixes {
			servers = append(servers, prefixServer(index))
		}
		maps.Copy(fields, map[string]any{
			"connectTo":       m.managerSocket(spec.Node),
			"socket":          m.partSocket(spec.Name),
			"service":         m.service,
			"registerService": spec.Name == firstEndpoint,
			"prefixServers":   servers,
			"router":          m.networks.router.Path(),
			"requestTimeout":  m.requestTimeout.String(),
		})
	case "client":
		maps.Copy(fields, map[string]any{
			"connectTo":       m.managerSocket(spec.Node),
			"networkServices": []string{"kernel://" + m.service + "/nsm-1"},
			"requestTimeout":  m.requestTimeout.String(),
		})
	default:
		return "", fmt.Errorf("kind: %q is none of registry, ipam, manager, forwarder, endpoint, client", spec.Kind)
	}
	maps.Copy(fields, spec.Config)
	encoded, err := json.Marshal(fields)
	return string(encoded), err
}

func prefixServer(index int) string {
	return fmt.Sprintf("tcp://"+ipamAddress+":5006", firstIPAM+index)
}

func (m *mesh) managerSocket(node int) string {
	return "unix://" + filepath.Join(m.folder, fmt.Sprintf("node-%d", node), "nsm.io.sock")
}

func (m *mesh) partSocket(name string) string {
	return "unix://" + filepath.Join(m.folder, "sock", name)
}

// identity is the URL of a Workload API that gives a pod's identity to whoever asks.
func (m *mesh) identity(namespace, name string) (string, error) {
	if m.workloadAPI != "" {
		return m.workloadAPI, nil
	}
	socket := filepath.Join(m.folder, "id", name)
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if !m.identities[name] {
		id := fmt.Sprintf("spiffe://%s/ns/%s/pod/%s", authority.TrustDomain, namespace, name)
		if err := m.authority.Serve(m.life, socket, id); err != nil {
			return "", err
		}
		m.identities[name] = true
	}
	return "unix://" + socket, nil
}

func (m *mesh) part(name string) (*child, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	part := m.parts[name]
	if part == nil {
		return nil, fmt.Errorf("there is no part %s", name)
	}
	return part, nil
}
