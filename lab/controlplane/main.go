// Command controlplane is a Kubernetes control plane in one binary: etcd,
// etcdutl, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy
// and kubectl, chosen by the first argument (or by the name it is called by).
//
// It is a Go module of its own because k8s.io/kubernetes wants its replace
// lines in the main module of a build. The harness in package lab meets it
// only through exec.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdutl/v3/etcdutl"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

func main() {
	name := filepath.Base(os.Args[0])
	if !run(name) {
		if len(os.Args) > 1 {
			os.Args = os.Args[1:]
			name = os.Args[0]
		}
		if !run(name) {
			fmt.Fprintf(os.Stderr, "controlplane: %q is none of etcd, etcdutl, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubectl\n", name)
			os.Exit(2)
		}
	}
}

// run becomes the named component and exits with its status; it returns false
// only when there is no such component.
func run(name string) bool {
	switch name {
	case "etcd":
		etcdmain.Main(os.Args)
		os.Exit(0)
	case "etcdutl":
		// Of its commands, those that restore a snapshot.
		command := &cobra.Command{Use: name}
		command.AddCommand(etcdutl.NewSnapshotCommand())
		os.Exit(cli.Run(command))
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllermanager.NewControllerManagerCommand()))
	case "kube-scheduler":
		os.Exit(cli.Run(scheduler.NewSchedulerCommand()))
	case "kube-proxy":
		os.Exit(cli.Run(proxy.NewProxyCommand()))
	case "kubectl":
		cmdutil.CheckErr(cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()))
		os.Exit(0)
	}
	return false
}
