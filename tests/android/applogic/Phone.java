import java.io.File;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.Chat;
import org.palmtop.app.logic.ChatState;
import org.palmtop.app.logic.Dialogue;
import org.palmtop.app.logic.History;
import org.palmtop.app.logic.Settings;
import org.palmtop.core.media.MediaItem;
import org.palmtop.core.media.PcmSource;
import org.palmtop.core.media.Recording;

/** A chat with its worker thread and its files; a second one on the same files is the app after it was killed. */
final class Phone {
    final FakeAnswerer engine = new FakeAnswerer();
    /** Where the chats are kept. */
    final File file;
    final History history;
    final Chat chat;
    private final ExecutorService worker = Executors.newSingleThreadExecutor();

    Phone() {
        this(new File(Check.folder(), "chats"));
    }

    Phone(File file) {
        this.file = file;
        Dialogue.MediaOpener opener = new Dialogue.MediaOpener() {
            @Override
            public MediaItem open(Attachment attachment) {
                return new Recording(attachment.path) {
                    @Override
                    public PcmSource open() {
                        return null;
                    }
                };
            }
        };
        history = new History(file);
        chat = new Chat(engine, history, new Settings(), opener, worker);
    }

    /** With the reference model open. */
    static Phone ready() {
        Phone phone = new Phone();
        phone.chat.open(Check.bundle(), "reference");
        phone.settle();
        Check.same(ChatState.Phase.READY, phone.chat.state().phase);
        return phone;
    }

    /** Wait until the worker has nothing to do. */
    void settle() {
        final CountDownLatch done = new CountDownLatch(1);
        worker.execute(new Runnable() {
            @Override
            public void run() {
                done.countDown();
            }
        });
        await(done);
    }

    /** Ask, and wait for the first piece of an answer that then stands still. */
    void sendAndHold(String text) {
        engine.gate = new CountDownLatch(1);
        engine.started = new CountDownLatch(1);
        Check.that(chat.send(text), "not sent");
        await(engine.started);
    }

    static void await(CountDownLatch latch) {
        try {
            Check.that(latch.await(20, TimeUnit.SECONDS), "nothing came");
        } catch (InterruptedException error) {
            throw new AssertionError(error);
        }
    }
}
