// Package api holds what the API server itself must keep: it walks the generated
// schemas, runs the tables of good and bad input (test/valid, test/invalid,
// config/samples) against a real API server, and checks that every field of a
// spec is honoured by a named test.
package api
