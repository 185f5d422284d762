package supervisor

import (
	"fmt"
	"net"
	"sync"

	"vl3-lb.io/tests/nsm/mesh/dataplane"
)

// Addresses of the cluster network, where managers, registry and IPAM listen and every pod has an interface.
const (
	clusterMask     = 16
	gatewayAddress  = "10.244.0.1"
	registryAddress = "10.244.0.2"
	// With the number of the prefix or node.
	ipamAddress    = "10.244.0.%d"
	managerAddress = "10.244.0.1%d"
	firstIPAM      = 3
)

// networks of the mesh. They exist as long as this process does.
type networks struct {
	// cluster is the nodes' network.
	cluster *dataplane.Cluster
	// router connects the clients of the vL3 network.
	router *dataplane.Netns

	mutex sync.Mutex
	pods  byte
}

func newNetworks(options *options) (*networks, error) {
	router, err := dataplane.NewRouter()
	if err != nil {
		return nil, err
	}
	addresses := []string{gatewayAddress, registryAddress}
	for index := range options.prefixes {
		addresses = append(addresses, fmt.Sprintf(ipamAddress, firstIPAM+index))
	}
	for node := range options.nodes {
		addresses = append(addresses, fmt.Sprintf(managerAddress, node))
	}
	cluster, err := dataplane.NewCluster(clusterMask, addresses)
	if err != nil {
		return nil, err
	}
	return &networks{cluster: cluster, router: router}, nil
}

// attachPod gives a pod's namespace an interface eth0 in the cluster network, and returns its address.
func (n *networks) attachPod(pod *dataplane.Netns) (net.IP, error) {
	n.mutex.Lock()
	n.pods++
	number := n.pods
	n.mutex.Unlock()
	if number == 255 {
		return nil, fmt.Errorf("the cluster network has no address left")
	}
	address := net.IPv4(10, 244, 1, number)
	return address, n.cluster.AttachPod(pod, address, net.ParseIP(gatewayAddress))
}
