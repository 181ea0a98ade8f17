// Package packaging makes the Helm chart and the OLM bundle of what config/ builds, so
// that there is one source of what is installed. A module of its own: the libraries that
// judge the results belong to no program of ours.
//
//	go -C hack/packaging run ./generate ROOT OUT
//
// Chart.yaml, values.yaml and their schema are written by hand (charts/portreeve), as are
// the words of the bundle (hack/packaging/csv). The tests render the chart with Helm's own
// engine and judge the bundle with Operator Framework's own validators.
package packaging
