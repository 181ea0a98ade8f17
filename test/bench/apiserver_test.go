package bench

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath/datapathtest"
)

// object is what an API server keeps.
type object interface {
	metav1.Object
	schema.ObjectKind
}

// apiServer is as much of an API server as an agent needs, on the loopback of a
// namespace: what it reads, as lists and as streams, and its own report.
type apiServer struct {
	address string

	mu      sync.Mutex
	version int
	objects map[string]map[string][]byte // by resource and name, as JSON
	streams map[string][]chan []byte     // of watches, by resource
	report  *v1alpha1.NodeDatapath
}

// serveAPI starts one. It ends with the benchmark.
func serveAPI(b *testing.B, n *datapathtest.Namespace) *apiServer {
	b.Helper()
	s := &apiServer{version: 1, objects: map[string]map[string][]byte{}, streams: map[string][]chan []byte{}}
	var listener net.Listener
	must(b, n.Do(func() (err error) {
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}))
	s.address = "http://" + listener.Addr().String()
	mux := http.NewServeMux()
	const group = "/apis/portreeve.dev/v1alpha1/"
	for _, resource := range []string{"nodeportpools", "nodeportallocations", "addresssets", "portreeves", "gatewaysets"} {
		mux.HandleFunc("GET "+group+resource, func(w http.ResponseWriter, r *http.Request) { s.read(w, r, resource) })
	}
	mux.HandleFunc("GET /api/v1/nodes", func(w http.ResponseWriter, r *http.Request) { s.read(w, r, "nodes") })
	mux.HandleFunc("GET /api/v1/nodes/{name}", func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept"), "PartialObjectMetadata") { // the agent asks for its addresses
			answer(w, http.StatusOK, &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, Status: corev1.NodeStatus{
				Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: askedAddress}},
			}})
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		answer(w, http.StatusOK, json.RawMessage(s.objects["nodes"][r.PathValue("name")]))
	})
	mux.HandleFunc(group+"nodedatapaths/", s.reported)
	mux.HandleFunc("POST "+group+"nodedatapaths", s.reported)
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	b.Cleanup(func() { _ = server.Close() })
	return s
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

// put makes an object the latest of its name, and tells all who watch.
func (s *apiServer) put(b *testing.B, resource, kind string, o object) {
	b.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	o.SetResourceVersion(strconv.Itoa(s.version))
	gvk := schema.GroupVersionKind{Group: "portreeve.dev", Version: "v1alpha1", Kind: kind}
	if resource == "nodes" {
		gvk = schema.GroupVersionKind{Group: "meta.k8s.io", Version: "v1", Kind: kind}
	}
	o.SetGroupVersionKind(gvk)
	data, err := json.Marshal(o)
	must(b, err)
	if s.objects[resource] == nil {
		s.objects[resource] = map[string][]byte{}
	}
	is := watch.Modified
	if s.objects[resource][o.GetName()] == nil {
		is = watch.Added
	}
	s.objects[resource][o.GetName()] = data
	for _, stream := range s.streams[resource] {
		stream <- event(is, data)
	}
}

func event(is watch.EventType, data []byte) []byte {
	return fmt.Appendf(nil, `{"type":%q,"object":%s}`+"\n", is, data)
}

// read lists, or watches; the events of a stream come after what is there if the
// request says so.
func (s *apiServer) read(w http.ResponseWriter, r *http.Request, resource string) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Query().Get("watch") == "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		items := []json.RawMessage{}
		for _, data := range s.objects[resource] {
			items = append(items, data)
		}
		answer(w, http.StatusOK, map[string]any{
			"kind": "List", "apiVersion": "v1", "metadata": map[string]string{"resourceVersion": strconv.Itoa(s.version)}, "items": items,
		})
		return
	}
	stream := make(chan []byte, 100)
	s.mu.Lock()
	s.streams[resource] = append(s.streams[resource], stream)
	var first [][]byte
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		for _, data := range s.objects[resource] {
			first = append(first, event(watch.Added, data))
		}
		first = append(first, event(watch.Bookmark, s.bookmark(resource)))
	}
	s.mu.Unlock()
	for _, e := range first {
		_, _ = w.Write(e)
	}
	w.(http.Flusher).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-stream:
			_, _ = w.Write(e)
			w.(http.Flusher).Flush()
		}
	}
}

// bookmark ends what is there at first.
func (s *apiServer) bookmark(resource string) []byte {
	kind, version := map[string]string{
		"nodeportpools": "NodePortPool", "nodeportallocations": "NodePortAllocation", "addresssets": "AddressSet", "portreeves": "Portreeve", "gatewaysets": "GatewaySet",
	}[resource], "portreeve.dev/v1alpha1"
	if resource == "nodes" {
		kind, version = "PartialObjectMetadata", "meta.k8s.io/v1"
	}
	return fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":"%d","annotations":{%q:"true"}}}`,
		kind, version, s.version, metav1.InitialEventsAnnotationKey)
}

// reported keeps the agent's report.
func (s *apiServer) reported(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method != http.MethodGet {
		s.version++
		next := &v1alpha1.NodeDatapath{}
		if err := json.NewDecoder(r.Body).Decode(next); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		next.ResourceVersion = strconv.Itoa(s.version)
		s.report = next
	}
	if s.report == nil {
		answer(w, http.StatusNotFound, metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound,
		})
		return
	}
	answer(w, http.StatusOK, s.report)
}

// enforced says up to which version of allocations the agent vouches.
func (s *apiServer) enforced() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.report == nil {
		return ""
	}
	return s.report.Status.Marks.Allocations
}

// kubeconfig leads to the server.
func (s *apiServer) kubeconfig() string {
	return strings.ReplaceAll(`{"apiVersion":"v1","kind":"Config","current-context":"c",
"clusters":[{"name":"c","cluster":{"server":"ADDRESS"}}],"users":[{"name":"u","user":{}}],
"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}`, "ADDRESS", s.address)
}
