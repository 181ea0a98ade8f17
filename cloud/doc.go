// Package cloud makes the security groups of a cloud admit exactly what a
// CloudFirewall wants, and touches no rule that is not signed by this cluster.
package cloud
