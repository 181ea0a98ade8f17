package agent

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// Client is all an agent may do with the API server; config/rbac/agent.yaml
// allows exactly this. It is safe for concurrent use.
type Client struct {
	rest  rest.Interface
	core  rest.Interface
	nodes metadata.Getter
	node  string
}

var _ Reports = (*Client)(nil)

// NewClient returns the client of the agent of a node.
func NewClient(config *rest.Config, node string) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/apis", &v1alpha1.GroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, err
	}
	core, err := coreClient(config)
	if err != nil {
		return nil, err
	}
	nodes := meta.Resource(corev1.SchemeGroupVersion.WithResource(kindNode.String()))
	return &Client{rest: client, core: core, nodes: nodes, node: node}, nil
}

// coreClient reads the Node whole, which the metadata client can't.
func coreClient(config *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/api", &corev1.SchemeGroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	return rest.RESTClientFor(config)
}

// Sources lists and watches what the agent reads: the Portreeve object and the
// Node by their names, of the Node nothing but metadata, of the others all.
func (c *Client) Sources() Sources {
	return Sources{
		kindPools:        c.follow(kindPools, fields.Everything()),
		kindAllocations:  c.follow(kindAllocations, fields.Everything()),
		kindAddressSets:  c.follow(kindAddressSets, fields.Everything()),
		kindGatewaySets:  c.follow(kindGatewaySets, fields.Everything()),
		kindInstallation: c.follow(kindInstallation, named(v1alpha1.InstallationName)),
		kindNode:         c.ownNode(),
	}
}

func (c *Client) follow(k kind, which fields.Selector) cache.ListerWatcherWithContext {
	return cache.NewListWatchFromClient(c.rest, k.String(), metav1.NamespaceAll, which)
}

func (c *Client) ownNode() cache.ListerWatcherWithContext {
	own := named(c.node).String()
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = own
			return c.nodes.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector, options.Watch = own, true
			return c.nodes.Watch(ctx, options)
		},
	}
}

func named(name string) fields.Selector { return fields.OneTermEqualSelector("metadata.name", name) }

// Node implements Reports.
func (c *Client) Node(ctx context.Context) (types.UID, error) {
	node, err := c.nodes.Get(ctx, c.node, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return node.UID, nil
}

// Addresses returns the addresses of the agent's own Node on which others can knock.
func (c *Client) Addresses(ctx context.Context) (out []netip.Addr, err error) {
	var node corev1.Node
	if err := c.core.Get().Resource(kindNode.String()).Name(c.node).Do(ctx).Into(&node); err != nil {
		return nil, fmt.Errorf("read Node %s: %w", c.node, err)
	}
	return compile.Addresses(&node), nil
}

const nodeDatapaths = "nodedatapaths"

// Read implements Reports.
func (c *Client) Read(ctx context.Context) (*v1alpha1.NodeDatapath, error) {
	d := &v1alpha1.NodeDatapath{}
	return d, c.rest.Get().Resource(nodeDatapaths).Name(c.node).Do(ctx).Into(d)
}

// Create implements Reports.
func (c *Client) Create(ctx context.Context, d *v1alpha1.NodeDatapath) (*v1alpha1.NodeDatapath, error) {
	created := &v1alpha1.NodeDatapath{}
	return created, c.rest.Post().Resource(nodeDatapaths).Body(d).Do(ctx).Into(created)
}

// WriteStatus implements Reports.
func (c *Client) WriteStatus(ctx context.Context, d *v1alpha1.NodeDatapath) (*v1alpha1.NodeDatapath, error) {
	written := &v1alpha1.NodeDatapath{}
	return written, c.rest.Put().Resource(nodeDatapaths).Name(c.node).SubResource("status").Body(d).Do(ctx).Into(written)
}
