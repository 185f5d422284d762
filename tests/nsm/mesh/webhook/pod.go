package webhook

import (
	"encoding/json"
	"fmt"
	"strings"
)

// annotation holds the network services of a pod: URLs with commas between them.
const annotation = "networkservicemesh.io"

// The names that NSM's webhook gives, so that manifests which collide with them are refused here too.
const (
	containerName   = "cmd-nsc"
	spireVolumeName = "spire-agent-socket"
	nsmVolumeName   = "nsm-socket"
)

const (
	spireFolder = "/run/spire/sockets"
	nsmFolder   = "/var/lib/networkservicemesh"
	readyFile   = "/tmp/ready"
)

// pod as far as the patch needs.
type pod struct {
	Metadata struct {
		Annotations map[string]string `json:"annotations"`
		Labels      map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		InitContainers []json.RawMessage `json:"initContainers"`
		Volumes        []json.RawMessage `json:"volumes"`
	} `json:"spec"`
}

type object = map[string]any

// patch adds the client, its volumes and the label for SPIRE; nil without the annotation.
func (p *pod) patch(image string) ([]byte, error) {
	services := p.Metadata.Annotations[annotation]
	if services == "" {
		return nil, nil
	}
	sidecar, err := sidecar(image, strings.Split(services, ","))
	if err != nil {
		return nil, err
	}
	// Before the pod's own: they start when the client is connected.
	initContainers := append([]any{sidecar}, list(p.Spec.InitContainers)...)
	volumes := append(list(p.Spec.Volumes),
		object{"name": spireVolumeName, "hostPath": object{"path": spireFolder, "type": "Directory"}},
		object{"name": nsmVolumeName, "hostPath": object{"path": nsmFolder, "type": "DirectoryOrCreate"}},
	)
	labels := object{"spiffe.io/spiffe-id": "true"}
	for key, value := range p.Metadata.Labels {
		labels[key] = value
	}
	var operations []object
	for path, value := range map[string]any{
		"/metadata/labels":     labels,
		"/spec/initContainers": initContainers,
		"/spec/volumes":        volumes,
	} {
		// Of a member of an object, this is also what replaces it.
		operations = append(operations, object{"op": "add", "path": path, "value": value})
	}
	return json.Marshal(operations)
}

func list(items []json.RawMessage) []any {
	var result []any
	for _, item := range items {
		result = append(result, item)
	}
	return result
}

// sidecar is the client: the pod's containers start when it is connected, and it closes its connection after they ended.
func sidecar(image string, services []string) (object, error) {
	for index, service := range services {
		services[index] = strings.TrimSpace(service)
	}
	configuration, err := json.Marshal(object{
		"name":            "$(POD_NAME)",
		"workloadApi":     "unix://" + spireFolder + "/agent.sock",
		"connectTo":       "unix://" + nsmFolder + "/nsm.io.sock",
		"dialTimeout":     "3s",
		"networkServices": services,
		"resolver":        true,
	})
	if err != nil {
		return nil, fmt.Errorf("write the configuration of the client: %w", err)
	}
	return object{
		"name":          containerName,
		"image":         image,
		"restartPolicy": "Always",
		"args":          []string{"client", string(configuration)},
		"env": []object{
			{"name": "POD_NAME", "valueFrom": object{"fieldRef": object{"fieldPath": "metadata.name"}}},
			{"name": "MESH_READY_FILE", "value": readyFile},
		},
		"startupProbe": object{
			"exec":             object{"command": []string{"test", "-e", readyFile}},
			"periodSeconds":    1,
			"failureThreshold": 600,
		},
		// Without it, its weight is next to nothing where the CPUs are busy.
		"resources": object{"requests": object{"cpu": "100m"}},
		"securityContext": object{
			// The resolver replaces resolv.conf, which belongs to root.
			"runAsUser":                0,
			"runAsNonRoot":             false,
			"allowPrivilegeEscalation": false,
			"seccompProfile":           object{"type": "RuntimeDefault"},
			// Port 53, and pings to the endpoint.
			"capabilities": object{"drop": []string{"ALL"}, "add": []string{"NET_BIND_SERVICE", "NET_RAW"}},
		},
		"volumeMounts": []object{
			{"name": spireVolumeName, "mountPath": spireFolder, "readOnly": true},
			{"name": nsmVolumeName, "mountPath": nsmFolder, "readOnly": true},
		},
	}, nil
}
