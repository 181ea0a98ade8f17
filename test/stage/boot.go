package stage

import (
	"context"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"

	"github.com/portreeve/portreeve/lab"
)

// AgentState is the folder that outlives the agents of a node.
func (s *Stage) AgentState(node *lab.Node) string { return filepath.Join(s.Dir(), "agent-"+node.Name) }

// PowerOff leaves a node as one that starts anew would be: without an agent, and
// without a rule of ours in its kernel. What the disk holds stays.
func (s *Stage) PowerOff(ctx context.Context, node *lab.Node) error {
	if agent := s.agents[node.Name]; agent != nil {
		agent.Kill()
		<-agent.Done()
	}
	elsewhere, err := os.MkdirTemp(s.Dir(), "no-state-")
	if err != nil {
		return err
	}
	_, err = node.Output(ctx, filepath.Join(s.Bin, "agent"), "cleanup", "--offline", "--state-dir", elsewhere)
	return err
}

// Cleanup is an "agent cleanup" by hand, with the access of the agent that ran there.
// Further flags come after the stage's own.
func (s *Stage) Cleanup(ctx context.Context, node *lab.Node, flags ...string) (out string, err error) {
	argv := []string{filepath.Join(s.Bin, "agent"), "cleanup", "--node", node.Name, "--kubeconfig", s.kubeconfigs[node.Name], "--state-dir", s.AgentState(node)}
	return node.Output(ctx, append(argv, flags...)...)
}

// Boot is the boot unit of a node.
func (s *Stage) Boot(ctx context.Context, node *lab.Node) error {
	_, err := node.Output(ctx, filepath.Join(s.Bin, "agent"), "boot", "--state-dir", s.AgentState(node))
	return err
}

// StartAgentAlone starts the agent of a node for which there is no API server.
func (s *Stage) StartAgentAlone(ctx context.Context, node *lab.Node) error {
	kubeconfig, err := s.WriteKubeconfig("alone-"+node.Name, &rest.Config{Host: "https://127.0.0.1:1", BearerToken: "none"})
	if err != nil {
		return err
	}
	return s.runAgent(ctx, node, kubeconfig)
}
