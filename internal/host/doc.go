// Package host asks a node what is its own: which ports it listens on itself,
// which port numbers it keeps out of its ephemeral range, and since when it is up.
//
// It reads and writes the network namespace of the calling thread and keeps
// nothing. Functions that parse are pure, so that they can be tried on any machine.
package host
