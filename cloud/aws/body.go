package aws

import (
	"context"
	"io"

	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// readBody has request bodies sent by Read. The SDK closes a body as soon as the answer
// begins, and its WriteTo then says io.EOF, which no WriteTo may: a net/http that is
// about to look whether the body has ended takes it for a failure and cuts the connection
// in the middle of the answer. What was done would be done again, and refused as there
// already. Only an answer as quick as a neighbour's meets it.
func readBody(stack *middleware.Stack) error {
	return stack.Build.Add(middleware.BuildMiddlewareFunc("ReadBody", func(ctx context.Context, in middleware.BuildInput, next middleware.BuildHandler) (middleware.BuildOutput, middleware.Metadata, error) {
		request, ok := in.Request.(*smithyhttp.Request)
		if !ok {
			return next.HandleBuild(ctx, in)
		}
		if body, ok := request.GetStream().(io.ReadSeeker); ok {
			plain, err := request.SetStream(struct{ io.ReadSeeker }{body})
			if err != nil {
				return middleware.BuildOutput{}, middleware.Metadata{}, err
			}
			in.Request = plain
		}
		return next.HandleBuild(ctx, in)
	}), middleware.After)
}
