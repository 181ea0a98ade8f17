package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// An authority signs the API server's certificate and those of users.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{key: key, cert: cert, pem: encodePEM("CERTIFICATE", der)}, err
}

// issue signs a certificate for a server (with addresses) or a user (without).
func (a *authority) issue(subject pkix.Name, dns []string, addrs []netip.Addr) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: subject, DNSNames: dns,
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, addr := range addrs {
		template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	return encodePEM("CERTIFICATE", der), keyPEM, err
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	return encodePEM("EC PRIVATE KEY", der), err
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// writePKI writes what the API server and the controller manager read.
func (c *Cluster) writePKI() error {
	var err error
	if c.authority, err = newAuthority(); err != nil {
		return err
	}
	serving, servingKey, err := c.authority.issue(pkix.Name{CommonName: "kube-apiserver"},
		[]string{"localhost", "kubernetes.default.svc"},
		append(c.vpcAddrs(controlPlaneHost), netip.MustParseAddr("127.0.0.1"), serviceIPv4.Addr().Next()))
	if err != nil {
		return err
	}
	saKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	saPEM, err := encodeKey(saKey)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"ca.crt": c.authority.pem, "serving.crt": serving, "serving.key": servingKey, "sa.key": saPEM,
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// RESTConfig is the lab's own access to the API server, as system:masters, from
// the calling process. It is for setting the scene and looking at it; what is
// under test gets [Cluster.UserConfig] or [Cluster.ServiceAccountConfig].
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.admin) }

// UserConfig is access as a user, with no more rights than RBAC gives to that
// name and those groups.
func (c *Cluster) UserConfig(user string, groups ...string) (*rest.Config, error) {
	cert, key, err := c.authority.issue(pkix.Name{CommonName: user, Organization: groups}, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", user, err)
	}
	cfg := c.AnonymousConfig()
	cfg.CertData, cfg.KeyData = cert, key
	return cfg, nil
}

// ServiceAccountConfig is access as a ServiceAccount, by a token as a pod would
// get it. The token is bound to boundTo, a Pod or a Node, or to nothing when that
// is nil. Either way it says which node its bearer is on: the user info has the
// extras authentication.kubernetes.io/node-name and node-uid.
//
// A bound token ends with its object. When a Node is deleted, the API server
// answers 401 to what was bound to it, within the ten seconds for which it
// remembers tokens; a watch that runs already goes on until it is renewed. A new
// Node of the same name does not revive the token, for its UID differs. A Pod's
// token ends with the Pod alone, whatever becomes of the Node.
func (c *Cluster) ServiceAccountConfig(ctx context.Context, namespace, name string, boundTo metav1.Object) (*rest.Config, error) {
	lifetime := int64((24 * time.Hour).Seconds())
	request := &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &lifetime},
	}
	if boundTo != nil {
		reference := &authenticationv1.BoundObjectReference{APIVersion: "v1", Name: boundTo.GetName(), UID: boundTo.GetUID()}
		switch boundTo.(type) {
		case *corev1.Pod:
			reference.Kind = "Pod"
		case *corev1.Node:
			reference.Kind = "Node"
		default:
			return nil, fmt.Errorf("token for service account %s/%s: bound to a %T: want a Pod or a Node", namespace, name, boundTo)
		}
		request.Spec.BoundObjectRef = reference
	}
	token, err := c.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("token for service account %s/%s: %w", namespace, name, err)
	}
	cfg := c.AnonymousConfig()
	cfg.BearerToken = token.Status.Token
	return cfg, nil
}

// AnonymousConfig is access without credentials, to add some to; a proxy that
// passes on its clients' own needs just this.
func (c *Cluster) AnonymousConfig() *rest.Config {
	return &rest.Config{
		Host:            "https://" + netip.AddrPortFrom(c.vpcAddrs(controlPlaneHost)[0], apiServerPort).String(),
		TLSClientConfig: rest.TLSClientConfig{CAData: c.authority.pem},
		Dial:            c.cp.DialContext,
		QPS:             -1, // the API server's own fairness is limit enough, as for any controller
	}
}

// WriteKubeconfig writes cfg for a process in the lab to read, and returns the
// file's path. A config of another Host (a proxy's, say) works as well.
func (c *Cluster) WriteKubeconfig(name string, cfg *rest.Config) (string, error) {
	file := clientcmdapi.Config{
		CurrentContext: "lab",
		Contexts:       map[string]*clientcmdapi.Context{"lab": {Cluster: "lab", AuthInfo: "lab"}},
		Clusters: map[string]*clientcmdapi.Cluster{"lab": {
			Server: cfg.Host, CertificateAuthorityData: cfg.CAData,
		}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"lab": {
			ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData, Token: cfg.BearerToken,
		}},
	}
	path := filepath.Join(c.dir, name+".kubeconfig")
	// Others may be reading an earlier one of the name: they must not see half a file.
	next, err := os.CreateTemp(c.dir, name+".*.next")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(next.Name()) }()
	if err := next.Close(); err != nil {
		return "", err
	}
	if err := clientcmd.WriteToFile(file, next.Name()); err != nil {
		return "", err
	}
	return path, os.Rename(next.Name(), path)
}

// userKubeconfig is a kubeconfig for one of Kubernetes' own components.
func (c *Cluster) userKubeconfig(user string, groups ...string) (string, error) {
	cfg, err := c.UserConfig(user, groups...)
	if err != nil {
		return "", err
	}
	return c.WriteKubeconfig(user, cfg)
}
