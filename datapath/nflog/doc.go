// Package nflog reads what a datapath logs: packets that the kernel hands over,
// with the reason as their prefix, to whoever listens to the netlink log group
// datapath.LogGroup of the network namespace.
//
// Each packet is cut to its headers, in the kernel. What comes from the network is
// in somebody else's hands: whatever does not parse is left out, and counted as lost.
// So is what the kernel could not deliver because nobody came to read in time.
package nflog
