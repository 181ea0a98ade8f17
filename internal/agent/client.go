package agent

import (
	"context"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Client is all an agent may do with the API server; config/rbac/agent.yaml
// allows exactly this. It is safe for concurrent use.
type Client struct {
	rest rest.Interface
	node string
}

var _ Reports = (*Client)(nil)

// NewClient returns the client of the agent of a node.
func NewClient(config *rest.Config, node string) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/apis", &v1alpha1.GroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, err
	}
	return &Client{rest: client, node: node}, nil
}

// Pools lists and watches the cluster's pools.
func (c *Client) Pools() cache.ListerWatcherWithContext { return c.all(kindPools) }

// Allocations lists and watches the cluster's allocations.
func (c *Client) Allocations() cache.ListerWatcherWithContext { return c.all(kindAllocations) }

func (c *Client) all(resource string) cache.ListerWatcherWithContext {
	return cache.NewListWatchFromClient(c.rest, resource, metav1.NamespaceAll, fields.Everything())
}

// Node implements Reports.
func (c *Client) Node(ctx context.Context) (types.UID, error) {
	data, err := c.rest.Get().AbsPath("/api/v1/nodes", c.node).Do(ctx).Raw()
	if err != nil {
		return "", err
	}
	var node metav1.PartialObjectMetadata
	if err := json.Unmarshal(data, &node); err != nil {
		return "", fmt.Errorf("node %s: %w", c.node, err)
	}
	return node.UID, nil
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
