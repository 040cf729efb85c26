import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.channels.SocketChannel;
import java.util.ArrayList;
import java.util.List;

/** Connects by sockets, by channels and in threads, and prints how many ports of the first two are odd. */
class Client {
    private static final InetAddress HERE = InetAddress.getLoopbackAddress();

    private final List<AutoCloseable> open = new ArrayList<>();
    private final ServerSocket listener = new ServerSocket(0, 4096, HERE);

    Client() throws Exception {}

    private Socket socket() throws Exception {
        Socket socket = new Socket(HERE, listener.getLocalPort());
        synchronized (open) {
            open.add(socket);
        }
        return socket;
    }

    private void several() {
        try {
            for (int i = 0; i < 10; i++) {
                socket();
            }
        } catch (Exception exception) {
            throw new RuntimeException(exception);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Client client = new Client();
        int odd = 0;
        for (int i = 0; i < 50; i++) {
            odd += client.socket().getLocalPort() % 2;
            SocketChannel channel = SocketChannel.open(new InetSocketAddress(HERE, client.listener.getLocalPort()));
            client.open.add(channel);
            odd += ((InetSocketAddress) channel.getLocalAddress()).getPort() % 2;
        }
        List<Thread> threads = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            threads.add(new Thread(client::several));
        }
        for (Thread thread : threads) {
            thread.start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        System.out.println(client.open.size() + " open, " + odd + " odd");
    }
}
