import java.awt.image.BufferedImage;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import javax.imageio.ImageIO;
import org.palmtop.app.logic.About;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.BundleImport;
import org.palmtop.app.logic.Chat;
import org.palmtop.app.logic.ChatState;
import org.palmtop.app.logic.CoreAnswerer;
import org.palmtop.app.logic.Dialogue;
import org.palmtop.app.logic.Entry;
import org.palmtop.app.logic.Example;
import org.palmtop.app.logic.History;
import org.palmtop.app.logic.ModelShelf;
import org.palmtop.app.logic.Settings;
import org.palmtop.app.logic.Starter;
import org.palmtop.app.logic.Wav;
import org.palmtop.core.media.MediaItem;
import org.palmtop.core.media.Picture;
import org.palmtop.core.media.PixelRows;

/** The first day of the app: unpack the packaged model, load it, ask the examples. The screen alone is missing. */
public final class Journey {
    private Journey() {}

    /** Arguments: the APK's assets, an empty folder. */
    public static void main(String[] arguments) throws Exception {
        final File assets = new File(arguments[0]);
        File phone = new File(arguments[1]);
        ExecutorService worker = Executors.newSingleThreadExecutor();
        CoreAnswerer answerer = new CoreAnswerer(new File(phone, "hashes.json"), new CoreAnswerer.FreeMemory() {
            @Override
            public long bytes() {
                return 2L << 30;
            }
        });
        Chat chat = new Chat(answerer, new History(new File(phone, "chats")), new Settings(), new Opener(), worker);
        BundleImport.FreeSpace plenty = new BundleImport.FreeSpace() {
            @Override
            public long bytes(File folder) {
                return folder.getUsableSpace();
            }
        };
        BundleImport.Source packaged = new BundleImport.Source() {
            @Override
            public InputStream open(String path) throws IOException {
                return new FileInputStream(new File(assets, "model/" + path));
            }
        };
        About about = About.read(new FileInputStream(new File(assets, "about.json")));
        ModelShelf shelf = new ModelShelf(new File(phone, "models"), null, new File(phone, "chosen"));
        BundleImport copier = new BundleImport(shelf, plenty);
        new Starter(chat, shelf, copier, packaged, about.model, new File(phone, "mark")).run(about.modelSha256);
        settle(worker);
        ChatState state = chat.state();
        System.out.println("STATE " + state.phase + " " + state.model + " " + state.trouble + " " + state.detail);
        File samples = new File(assets, "samples");
        List<Example> examples = Example.read(new FileInputStream(new File(samples, "samples.json")));
        for (Example example : examples) {
            chat.begin();
            if (example.image != null) {
                File file = new File(samples, example.image);
                BufferedImage image = ImageIO.read(file);
                chat.attach(Attachment.image(file.getPath(), image.getWidth(), image.getHeight()));
            }
            if (example.audio != null) {
                File file = new File(samples, example.audio);
                chat.attach(Attachment.audio(file.getPath(), Wav.seconds(file)));
            }
            chat.send(example.question);
            settle(worker);
            Entry answer = chat.entries().get(1);
            System.out.println("ANSWER " + example.mode + "|" + answer.text + "|" + answer.status + "|" + answer.detail);
        }
        chat.closeModel();
        settle(worker);
        worker.shutdown();
    }

    private static void settle(ExecutorService worker) throws InterruptedException {
        final CountDownLatch done = new CountDownLatch(1);
        worker.execute(new Runnable() {
            @Override
            public void run() {
                done.countDown();
            }
        });
        if (!done.await(120, TimeUnit.SECONDS)) {
            throw new AssertionError("the worker hangs");
        }
    }

    private static final class Opener implements Dialogue.MediaOpener {
        @Override
        public MediaItem open(final Attachment attachment) {
            if (attachment.kind == Attachment.Kind.AUDIO) {
                return new Wav(new File(attachment.path));
            }
            return new Picture(attachment.path, attachment.width, attachment.height) {
                @Override
                public PixelRows open() {
                    return rows(attachment.path);
                }
            };
        }
    }

    private static PixelRows rows(String path) {
        final BufferedImage image;
        try {
            image = ImageIO.read(new File(path));
        } catch (IOException error) {
            throw new AssertionError(error);
        }
        return new PixelRows() {
            @Override
            public int width() {
                return image.getWidth();
            }

            @Override
            public int height() {
                return image.getHeight();
            }

            @Override
            public void row(int y, int[] argb) {
                image.getRGB(0, y, image.getWidth(), 1, argb, 0, image.getWidth());
            }
        };
    }
}
