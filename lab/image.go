package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Image is a program that pods can run. The container's command and args follow
// Argv; its environment is the pod's own (values and fieldRefs) after Env, and a
// KUBECONFIG with the pod's ServiceAccount token, which stands in for the files
// that a real kubelet mounts. Volumes are not honoured: a pod sees the machine's
// file system. LAB_NODE_DIR is a folder that stands in for the node's own disk;
// $(LAB_NODE_DIR) in Argv, too, names it.
type Image struct {
	Argv []string
	Env  []string
}

// program is what a container runs: a *Process or an *echo.
type program interface {
	Done() <-chan struct{}
	Err() error
	Stop(grace time.Duration)
}

func (s *sandbox) startContainer(i int) (program, error) {
	container := &s.pod.Spec.Containers[i]
	if container.Image == EchoImage {
		return startEcho(s.ns, s.pod.Name, container.Ports)
	}
	image, ok := s.node.cluster.options.Images[container.Image]
	if !ok {
		return nil, fmt.Errorf("image %q is not one of the lab's Options.Images", container.Image)
	}
	env, err := s.env(s.ctx, container)
	if err != nil {
		return nil, err
	}
	argv := slices.Concat(image.Argv, container.Command, container.Args)
	return s.node.cluster.Run(s.ctx, Command{
		Name: strings.Join([]string{s.pod.Namespace, s.pod.Name, container.Name}, "_"),
		In:   s.ns, Argv: expand(argv, env), Env: slices.Concat(image.Env, env),
	})
}

func (s *sandbox) env(ctx context.Context, container *corev1.Container) ([]string, error) {
	disk := filepath.Join(s.node.cluster.dir, "disk-"+s.node.Name)
	if err := os.MkdirAll(disk, 0o755); err != nil {
		return nil, err
	}
	env := []string{"LAB_NODE_DIR=" + disk}
	for _, v := range container.Env {
		value := v.Value
		switch {
		case v.ValueFrom == nil:
		case v.ValueFrom.FieldRef != nil:
			var err error
			if value, err = s.field(v.ValueFrom.FieldRef.FieldPath); err != nil {
				return nil, fmt.Errorf("env %s: %w", v.Name, err)
			}
		default:
			return nil, fmt.Errorf("env %s: the lab honours values and fieldRefs only", v.Name)
		}
		env = append(env, v.Name+"="+value)
	}
	if mount := s.pod.Spec.AutomountServiceAccountToken; mount != nil && !*mount {
		return env, nil
	}
	path, err := s.serviceAccountKubeconfig(ctx)
	return append(env, "KUBECONFIG="+path), err
}

// serviceAccountKubeconfig makes the pod's kubeconfig once, for all of its
// containers and their restarts.
func (s *sandbox) serviceAccountKubeconfig(ctx context.Context) (string, error) {
	s.kubeconfigMu.Lock()
	defer s.kubeconfigMu.Unlock()
	if s.kubeconfig != "" {
		return s.kubeconfig, nil
	}
	c := s.node.cluster
	cfg, err := c.ServiceAccountConfig(ctx, s.pod.Namespace, s.pod.Spec.ServiceAccountName, s.pod)
	if err != nil {
		return "", err
	}
	path, err := c.WriteKubeconfig(s.pod.Namespace+"_"+s.pod.Name, cfg)
	if err != nil {
		return "", err
	}
	s.kubeconfig = path
	return path, nil
}

func (s *sandbox) field(path string) (string, error) {
	switch path {
	case "metadata.name":
		return s.pod.Name, nil
	case "metadata.namespace":
		return s.pod.Namespace, nil
	case "metadata.uid":
		return string(s.pod.UID), nil
	case "spec.nodeName":
		return s.node.Name, nil
	case "spec.serviceAccountName":
		return s.pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return s.node.Addrs[0].String(), nil
	case "status.podIP":
		return s.ips[0].String(), nil
	}
	return "", fmt.Errorf("the lab does not know the field %q", path)
}

// expand replaces $(NAME) as Kubernetes does in commands and args.
func expand(argv, env []string) []string {
	var pairs []string
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		pairs = append(pairs, "$("+name+")", value)
	}
	replacer := strings.NewReplacer(pairs...)
	expanded := make([]string, len(argv))
	for i, arg := range argv {
		expanded[i] = replacer.Replace(arg)
	}
	return expanded
}
