// The pattern of the EchoServer in Oracle's Java tutorial: lines of one client.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.net.ServerSocket;

public class JavaEcho {
  public static void main(String[] args) throws Exception {
    try (var server = new ServerSocket(Integer.parseInt(args[0]));
        var client = server.accept();
        var out = new PrintWriter(client.getOutputStream(), true);
        var in = new BufferedReader(
            new InputStreamReader(client.getInputStream()))) {
      String line;
      while ((line = in.readLine()) != null) {
        out.println(line);
      }
    }
  }
}
