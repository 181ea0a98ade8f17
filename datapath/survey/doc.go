// Package survey looks on a node for what tells who carries node ports there: the rules
// of kube-proxy, and what network plugins leave in the kernel. It reads the network
// namespace of the calling thread, changes nothing in it, and judges nothing.
//
// It asks for things by their names, so that what it costs does not grow with the number
// of Services. Only the rules of legacy iptables, and who masquerades, can be had in no
// other way than all at once: they are left alone for a thousand times as long as it took.
package survey
