package aws_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/portreeve/portreeve/cloud/aws"
)

// net/http looks for the end of a body that the SDK has closed meanwhile: that is its
// end, and no failure to send it.
func TestABodyThatWasClosedHasEnded(t *testing.T) {
	stack := middleware.NewStack("AuthorizeSecurityGroupIngress", smithyhttp.NewStackRequest)
	_ = stack.Serialize.Add(middleware.SerializeMiddlewareFunc("Form", func(ctx context.Context, in middleware.SerializeInput, next middleware.SerializeHandler) (middleware.SerializeOutput, middleware.Metadata, error) {
		request, err := in.Request.(*smithyhttp.Request).SetStream(strings.NewReader("Action=X"))
		if err != nil {
			t.Fatal(err)
		}
		in.Request = request
		return next.HandleSerialize(ctx, in)
	}), middleware.After)
	if err := aws.ReadBody(stack); err != nil {
		t.Fatal(err)
	}

	var sent *http.Request
	send := middleware.HandlerFunc(func(ctx context.Context, in any) (any, middleware.Metadata, error) {
		sent = in.(*smithyhttp.Request).Build(ctx)
		return nil, middleware.Metadata{}, nil
	})
	if _, _, err := stack.HandleMiddleware(t.Context(), nil, send); err != nil {
		t.Fatal(err)
	}
	if sent.ContentLength != int64(len("Action=X")) {
		t.Errorf("the body has %d bytes", sent.ContentLength)
	}
	text, err := io.ReadAll(io.LimitReader(sent.Body, sent.ContentLength))
	if string(text) != "Action=X" || err != nil {
		t.Fatalf("sent %q, %v", text, err)
	}
	if err := sent.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, sent.Body); n != 0 || err != nil {
		t.Errorf("a closed body gives %d bytes and %v, want its end", n, err)
	}
}
