// Package front writes the configuration of what stands before the nodes:
//
//	listeners, each with its servers ─► Nginx   ─► a file for nginx's stream block
//	                                 ─► HAProxy ─► a file for HAProxy
//
// It is pure: the same listeners give the same bytes. A file is whole and valid by
// itself, also without a server: then nobody listens, and clients are refused at once.
//
// Nothing that is not a word, a number or an address gets into a file. What comes from
// others, names above all, is looked at here once more, whatever the API server has
// let through; a listener or server that fails is left out.
package front
