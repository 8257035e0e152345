# The pattern of the echo server in the documentation of Python's selectors:
# sockets that do not block, and a send that is hoped not to.
import selectors
import socket
import sys

selector = selectors.DefaultSelector()


def accept(listener):
    client, address = listener.accept()
    client.setblocking(False)
    selector.register(client, selectors.EVENT_READ, echo)


def echo(client):
    data = client.recv(1000)
    if data:
        client.send(data)
    else:
        selector.unregister(client)
        client.close()


listener = socket.socket()
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(100)
listener.setblocking(False)
selector.register(listener, selectors.EVENT_READ, accept)
while True:
    for key, mask in selector.select():
        key.data(key.fileobj)
