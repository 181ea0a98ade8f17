// Package datapath makes a node's kernel enforce a rule.Set.
package datapath
