package main

import (
	"context"
	"flag"
	"fmt"
	"net"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	kind "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// authz is an authorization service for Envoy: who shows the token passes and has a name for the backend, others are told no.
func authz(arguments []string) error {
	flags := flag.NewFlagSet("authz", flag.ExitOnError)
	listen := flags.String("listen", "", "address and port")
	flags.String("name", "", "what it calls itself")
	flags.Parse(arguments)

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	auth.RegisterAuthorizationServer(server, checks{})
	fmt.Println("ready")
	return server.Serve(listener)
}

type checks struct{}

func (checks) Check(_ context.Context, question *auth.CheckRequest) (*auth.CheckResponse, error) {
	attributes := question.GetAttributes()
	request := attributes.GetRequest().GetHttp()
	fmt.Printf("%s %s %s body=%q from=%s\n", request.GetMethod(), request.GetHost(), request.GetPath(), request.GetBody(),
		attributes.GetSource().GetAddress().GetSocketAddress().GetAddress())
	header := func(name, value string) *core.HeaderValueOption {
		return &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: value}}
	}
	if request.GetHeaders()["x-token"] != "good" {
		return &auth.CheckResponse{
			Status: &status.Status{Code: int32(codes.PermissionDenied)},
			HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
				Status:  &kind.HttpStatus{Code: kind.StatusCode_Unauthorized},
				Headers: []*core.HeaderValueOption{header("x-why", "no token")},
				Body:    "who are you?",
			}},
		}, nil
	}
	return &auth.CheckResponse{
		Status: &status.Status{Code: int32(codes.OK)},
		HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
			Headers:              []*core.HeaderValueOption{header("x-user", "somebody")},
			HeadersToRemove:      []string{"x-token"},
			ResponseHeadersToAdd: []*core.HeaderValueOption{header("x-checked", "yes")},
		}},
	}, nil
}
