# The pattern of the first example in the documentation of Python's socket.
import socket
import sys

with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
    listener.bind(("", int(sys.argv[1])))
    listener.listen(1)
    client, address = listener.accept()
    with client:
        while data := client.recv(1024):
            client.sendall(data)
