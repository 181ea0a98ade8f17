// Package health reads our objects as GitOps tools do: kstatus, by which Flux goes, and
// Argo CD with the scripts of config/argocd. The tests of those who write a status
// show it here in every state that they know (Check), with what it must be called.
package health
