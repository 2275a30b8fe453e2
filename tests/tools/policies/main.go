// Command policies judges connections by the NetworkPolicies of a cluster, with the engine of kube-network-policies: what
// that project does with each packet of a node, without the packets.
//
// It reads a JSON list of connections from standard input, and writes a list of booleans: allowed or not.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"net"
	"os"
	_ "unsafe" // for go:linkname

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

// packet is the engine's own, field by field: it exports neither this nor the function that judges. go.mod pins both.
type packet struct {
	id      uint32
	family  v1.IPFamily
	srcIP   net.IP
	dstIP   net.IP
	proto   v1.Protocol
	srcPort int
	dstPort int
	payload []byte
}

//go:linkname judge sigs.k8s.io/kube-network-policies/pkg/networkpolicy.(*Controller).evaluatePacket
func judge(engine *networkpolicy.Controller, ctx context.Context, p packet) bool

// connection is one question. A pod is known by its address; an address of no pod is outside of the cluster.
type connection struct {
	From     string
	To       string
	Port     int
	Protocol v1.Protocol
}

func engine(ctx context.Context, kubeconfig string) (*networkpolicy.Controller, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	core, networking := factory.Core().V1(), factory.Networking().V1()
	made, err := networkpolicy.NewController(
		client, networking.NetworkPolicies(), core.Namespaces(), core.Pods(), core.Nodes(), nil, nil, nil,
		networkpolicy.Config{NodeName: "none"}, // NRIdisabled would leave a nil where it looks an outer address up
	)
	if err != nil {
		return nil, err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return made, nil
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "file that says where the cluster is")
	flag.Parse()
	ctx := context.Background()
	var asked []connection
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		log.Fatalf("standard input: %v", err)
	}
	made, err := engine(ctx, *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	verdicts := make([]bool, len(asked))
	for i, each := range asked {
		from, to := net.ParseIP(each.From), net.ParseIP(each.To)
		if from == nil || to == nil {
			log.Fatalf("connection %d: not two addresses: %q, %q", i, each.From, each.To)
		}
		verdicts[i] = judge(made, ctx, packet{
			family: v1.IPv4Protocol, srcIP: from, dstIP: to, proto: each.Protocol, srcPort: 40000, dstPort: each.Port,
		})
	}
	if err := json.NewEncoder(os.Stdout).Encode(verdicts); err != nil {
		log.Fatal(err)
	}
}
