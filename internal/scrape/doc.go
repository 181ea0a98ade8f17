// Package scrape asks who reads metrics: the API server says whose a bearer token is
// (TokenReview) and whether he may (SubjectAccessReview), as for its own /metrics.
//
// controller-runtime has the same as a filter of its own. It would bring k8s.io/apiserver
// with all that hangs on it into the program that holds the cloud's credentials, for two
// requests.
package scrape
