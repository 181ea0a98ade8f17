// Package conntrack makes the kernel forget the connections of sources that
// lost access.
//
// The datapath already drops every further packet of such a connection. The
// sweep ends the other half: no reply is translated any more, no idle entry
// waits days for its timeout, and if the source is admitted again it begins anew.
//
//	swept      protocol, number  judged by want, and among the numbers asked for
//	           source            not admitted by want, or only by a gate that has
//	                             ended, and not the node itself; an audited number
//	                             admits all whom want does not deny
//	           destination       an address of the node on which want judges, as the
//	                             client wrote it (before DNAT); not one of kube-ipvs0
//	spared     everything else: a pod's masqueraded connection to somebody else's
//	           :30080 has that port too, but not the node as its destination
//
// SweepStale has the flows of sources that have access find their way anew, where their
// Service says something else than it did when they began. It asks the entry what was
// made of it, so it may come too early, and again: what is right by now stays.
package conntrack
