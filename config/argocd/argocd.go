// Package argocd is what Argo CD is taught of the health of our kinds, for those who try
// it: kustomization.yaml says which script is for which kind.
package argocd

import "embed"

// Scripts are the Lua scripts and the kustomization.
//
//go:embed *.lua kustomization.yaml
var Scripts embed.FS
