import java.net.*;
import java.util.*;

/** Opens connections to 127.0.0.1 with the function of a snippet, and prints the source port of each. */
class Harness {
    public static void main(String[] args) throws Exception {
        InetAddress loopback = InetAddress.getByName("127.0.0.1");
        List<Socket> held = new ArrayList<>();
        for (int left = Integer.parseInt(args[1]); left > 0; left--) {
            held.add(Ports.connect(loopback, new InetSocketAddress(loopback, Integer.parseInt(args[0]))));
        }
        held.forEach(socket -> System.out.println(socket.getLocalPort()));
    }
}
