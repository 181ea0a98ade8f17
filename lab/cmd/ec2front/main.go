// Command ec2front serves the simulated EC2 of cloud/cloudtest, for the demo and
// for trying things by hand with the AWS CLI:
//
//	ec2front --listen 127.0.0.1:4566 --access-key demo --secret-key demo --group sg-1 --group sg-2
//	AWS_ACCESS_KEY_ID=demo AWS_SECRET_ACCESS_KEY=demo \
//	  aws --endpoint-url http://127.0.0.1:4566 --region eu-central-1 ec2 describe-security-group-rules
//
// Each group starts with rules of somebody else, which Portreeve must leave
// alone. GET /groups prints every group's inbound rules as a table, unsigned,
// for narration. The first line on standard output says where it listens.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("ec2front: ")
	listen := flag.String("listen", "127.0.0.1:0", "address and port to serve on")
	accessKey := flag.String("access-key", "test", "the only access key that is accepted")
	secretKey := flag.String("secret-key", "test", "its secret")
	var groups []string
	flag.Func("group", "id of a security group to make, e.g. sg-1; may be repeated", func(id string) error {
		if !strings.HasPrefix(id, "sg-") {
			return fmt.Errorf("%q does not begin with sg-", id)
		}
		groups = append(groups, id)
		return nil
	})
	flag.Parse()

	account := cloudtest.NewEC2(cloudtest.Options{AccessKey: *accessKey, SecretKey: *secretKey})
	for _, id := range groups {
		account.AddGroup(id)
		account.Seed(id, somebodyElses()...)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *listen, account, groups); err != nil {
		log.Fatal(err)
	}
}

// somebodyElses are rules as they stand in a group before Portreeve comes.
func somebodyElses() []cloud.Rule {
	return []cloud.Rule{
		{Rule: cloudtest.Parse("TCP 22 10.0.0.0/8"), Description: "ssh from the office"},
		{Rule: cloudtest.Parse("ALL 0-65535 group"), Description: "nodes among themselves"},
	}
}

func serve(ctx context.Context, address string, account *cloudtest.EC2, groups []string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", account)
	mux.HandleFunc("GET /groups", func(w http.ResponseWriter, _ *http.Request) { table(w, account, groups) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	fmt.Printf("listening on http://%s\n", listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func table(w http.ResponseWriter, account *cloudtest.EC2, groups []string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GROUP\tRULE\tOWNER\tDESCRIPTION")
	for _, id := range groups {
		for _, r := range account.Rules(id) {
			owner := r.Owner
			if owner == "" {
				owner = "-"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", id, cloudtest.Spell(r.Rule), owner, r.Description)
		}
	}
	// The reader has gone when this fails; there is nobody left to tell.
	_ = t.Flush()
}
