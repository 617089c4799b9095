# shim in a small image, also under the name etcd, so that it takes the place of
# etcd's image in a manifest whose command begins with etcd. It runs as user 65532;
# a data directory that is mounted from elsewhere must belong to that user.
#
#   docker build --build-arg VERSION=1.0.0 -t shim .
#   docker run -p 2379:2379 -v data:/home/nonroot shim

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=0.1.0-dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/shim ./cmd/shim \
 && ln -s shim /out/etcd

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/ /usr/local/bin/
WORKDIR /home/nonroot
USER 65532:65532
EXPOSE 2379
CMD ["/usr/local/bin/shim", "--listen-client-urls=http://0.0.0.0:2379", "--advertise-client-urls=http://127.0.0.1:2379"]
