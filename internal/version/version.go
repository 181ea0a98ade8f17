// Package version says which Portreeve runs.
package version

import (
	"fmt"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
)

// Number of the release: semantic, without a v. A build may set another one:
//
//	go build -ldflags "-X github.com/portreeve/portreeve/internal/version.Number=0.2.0"
var Number = "0.1.0"

// Line is what a program prints when asked for its version.
func Line(program string) string {
	return fmt.Sprintf("%s %s (%s %s/%s)", program, Number, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// UserAgent is how a program calls itself towards the API server, whose audit log has it.
func UserAgent(program string) string { return program + "/" + Number }

// Info returns the metric portreeve_build_info: 1, with the version and Go's.
func Info() prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "portreeve_build_info", Help: "Always 1; which version runs, and which Go has built it.",
		ConstLabels: prometheus.Labels{"version": Number, "goversion": runtime.Version()},
	})
	info.Set(1)
	return info
}
