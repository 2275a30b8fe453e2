"""The product on a real Kubernetes API: kube-apiserver, its controllers and etcd."""
