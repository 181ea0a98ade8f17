package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sync/errgroup"
)

const etcdURL = "http://127.0.0.1:2379"

func (c *Cluster) etcdData() string { return filepath.Join(c.dir, "etcd") }

func (c *Cluster) startEtcd(ctx context.Context) error {
	p, err := c.Run(ctx, Command{Name: "etcd", Argv: []string{c.controlPlane, "etcd",
		"--data-dir", c.etcdData(),
		"--unsafe-no-fsync", // a lab outlives no power cut
		"--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", "http://127.0.0.1:2380",
		"--quota-backend-bytes", strconv.Itoa(4 << 30),
		"--log-level", "warn",
	}})
	c.mu.Lock()
	c.etcd = p
	c.mu.Unlock()
	return err
}

// Backup is a copy of etcd's state at one moment, and so of all objects of the
// lab's cluster. It ends with the lab.
type Backup struct{ path string }

// Backup copies etcd's state while everything runs on, by the call that etcdctl's
// `snapshot save` makes.
func (c *Cluster) Backup(ctx context.Context) (*Backup, error) {
	file, err := os.CreateTemp(c.dir, "backup-*.db")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(c.saveSnapshot(ctx, file), file.Close()); err != nil {
		return nil, fmt.Errorf("etcd snapshot: %w", err)
	}
	return &Backup{path: file.Name()}, nil
}

// saveSnapshot speaks to etcd's JSON gateway. The last 32 bytes are a checksum of
// the others, by which a restore knows that nothing is missing.
func (c *Cluster) saveSnapshot(ctx context.Context, to io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, etcdURL+"/v3/maintenance/snapshot", bytes.NewReader([]byte("{}")))
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: c.cp.DialContext, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	for parts := json.NewDecoder(response.Body); ; {
		var part struct {
			Result struct{ Blob []byte }
			Error  json.RawMessage
		}
		err := parts.Decode(&part)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if part.Error != nil {
			return fmt.Errorf("%s", part.Error)
		}
		if _, err := to.Write(part.Result.Blob); err != nil {
			return err
		}
	}
}

// RestoreOptions say how a backup is put back.
type RestoreOptions struct {
	// BumpRevision is added to the backup's revision, and everything up to there
	// counts as compacted. If it is more than what was written since the backup,
	// no client ever sees a resource version that is smaller than one it knows:
	// its watches end with 410 and it lists anew.
	//
	// With 0, as who takes the first command of the manual has it, resource
	// versions go back. A watch from a version of the future is accepted, and says
	// nothing until the version has caught up: no error, no bookmark. Informers so
	// miss what is written meanwhile, and keep for good what the restore undid.
	// Asked for a list or an object of the future, the API server says 504 "Too
	// large resource version" after three seconds, which client-go repeats for
	// three quarters of a minute.
	BumpRevision uint64
}

// Restore replaces etcd's state by that of a backup: all that was written since
// is undone, in the API and nowhere else. API server and etcd are stopped, to
// everybody an outage of seconds, and when Restore returns they are ready again.
//
// As Kubernetes' documentation asks for, its own components are restarted, for
// they may know what is no longer so: the controller manager, the scheduler, and
// the kubelets and kube-proxies that run. A node that was added since the backup
// registers anew; its Node has another UID, so tokens bound to the old one are
// dead. What else runs in the lab is left alone, to show how it bears it.
func (c *Cluster) Restore(ctx context.Context, backup *Backup, options RestoreOptions) error {
	fresh, err := os.MkdirTemp(c.dir, "restored-")
	if err != nil {
		return err
	}
	argv := []string{c.controlPlane, "etcdutl", "snapshot", "restore", backup.path, "--data-dir", fresh}
	if options.BumpRevision > 0 {
		argv = append(argv, "--mark-compacted", "--bump-revision", strconv.FormatUint(options.BumpRevision, 10))
	}
	if _, err := c.cp.Output(ctx, argv...); err != nil {
		return err
	}
	c.StopAPIServer()
	c.mu.Lock()
	etcd := c.etcd
	c.mu.Unlock()
	etcd.Kill()
	if err := os.RemoveAll(c.etcdData()); err != nil {
		return err
	}
	if err := os.Rename(fresh, c.etcdData()); err != nil {
		return err
	}
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil { // and the controller manager
		return err
	}
	return c.restartComponents(ctx)
}

// restartComponents restarts what StartAPIServer has not.
func (c *Cluster) restartComponents(ctx context.Context) error {
	c.mu.Lock()
	scheduler := c.scheduler
	c.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	if scheduler != nil {
		scheduler.Kill()
		group.Go(func() error { return c.startScheduler(ctx) })
	}
	for _, n := range c.Nodes() {
		group.Go(func() error {
			if err := n.register(ctx); err != nil {
				return fmt.Errorf("registering %s anew: %w", n.Name, err)
			}
			return n.restartKubeProxy(ctx)
		})
	}
	return group.Wait()
}

// restartKubeProxy leaves one alone that was stopped.
func (n *Node) restartKubeProxy(ctx context.Context) error {
	n.mu.Lock()
	p := n.kubeProxy
	n.mu.Unlock()
	if p == nil || ended(p) {
		return nil
	}
	p.Kill()
	return n.StartKubeProxy(ctx)
}

func ended(p *Process) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}
