// Package agent is the manifest of the agents' DaemonSet, as the manager applies it and
// as people do by hand: one source for both.
package agent

import _ "embed"

// DaemonSet is the manifest, in YAML.
//
//go:embed daemonset.yaml
var DaemonSet []byte
