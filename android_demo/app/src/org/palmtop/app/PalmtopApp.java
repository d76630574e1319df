package org.palmtop.app;

import android.app.ActivityManager;
import android.app.Application;
import android.content.ComponentCallbacks2;
import android.os.StatFs;
import android.system.ErrnoException;
import android.system.Os;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.palmtop.app.logic.About;
import org.palmtop.app.logic.Answerer;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.BundleImport;
import org.palmtop.app.logic.Chat;
import org.palmtop.app.logic.CoreAnswerer;
import org.palmtop.app.logic.Dialogue;
import org.palmtop.app.logic.History;
import org.palmtop.app.logic.ModelShelf;
import org.palmtop.app.logic.Offers;
import org.palmtop.app.logic.ProcessMemory;
import org.palmtop.app.logic.Settings;
import org.palmtop.app.logic.Starter;
import org.palmtop.app.logic.Wav;
import org.palmtop.core.media.MediaItem;

/** Objects of the whole process: screens are recreated with every rotation of the phone, the engine is kept. */
public final class PalmtopApp extends Application implements BundleImport.FreeSpace, CoreAnswerer.FreeMemory {
    private final ExecutorService engineWorker = Executors.newSingleThreadExecutor();
    private final ExecutorService fileWorker = Executors.newSingleThreadExecutor();
    private Answerer answerer;
    private Chat chat;
    private History history;
    private Offers offers;
    private ModelShelf shelf;
    private ImportJob importJob;
    private BenchmarkJob benchmarkJob;
    private Recorder recorder;
    private int visibleScreens;

    @Override
    public void onCreate() {
        super.onCreate();
        try {
            // Before any native library is loaded. The app has no network; this keeps them from even trying.
            Os.setenv("ORT_DISABLE_TELEMETRY", "1", true);
        } catch (ErrnoException error) {
            throw new IllegalStateException(error); // only an empty name is refused
        }
        File files = getFilesDir();
        shelf = new ModelShelf(new File(files, "models"), getExternalFilesDir("models"), new File(files, "chosen"));
        answerer = new CoreAnswerer(new File(getCacheDir(), "hashes.json"), this);
        history = new History(new File(files, "chats"));
        chat = new Chat(answerer, history, Settings.load(settingsFile()), new Opener(), engineWorker);
        offers = new Offers(chat);
        importJob = new ImportJob(this);
        benchmarkJob = new BenchmarkJob(this);
        recorder = new Recorder(mediaFolder(), chat);
        start();
    }

    private void start() {
        final About about;
        try {
            about = about();
        } catch (IOException error) {
            chat.refuse(error);
            return;
        }
        chat.prepare(about.model, 0);
        BundleImport.Source packaged = new BundleImport.Source() {
            @Override
            public InputStream open(String path) throws IOException {
                return getAssets().open("model/" + path);
            }
        };
        File mark = new File(getFilesDir(), "unpacked");
        final Starter starter =
                new Starter(chat, shelf, new BundleImport(shelf, this), packaged, about.model, mark);
        fileWorker.execute(new Runnable() {
            @Override
            public void run() {
                history.sweep(mediaFolder());
                starter.run(about.modelSha256);
            }
        });
    }

    Chat chat() {
        return chat;
    }

    History history() {
        return history;
    }

    Offers offers() {
        return offers;
    }

    Answerer answerer() {
        return answerer;
    }

    ModelShelf shelf() {
        return shelf;
    }

    ImportJob importJob() {
        return importJob;
    }

    BenchmarkJob benchmarkJob() {
        return benchmarkJob;
    }

    Recorder recorder() {
        return recorder;
    }

    /** For reading and writing files, away from the main thread. */
    ExecutorService fileWorker() {
        return fileWorker;
    }

    About about() throws IOException {
        try (InputStream stream = getAssets().open("about.json")) {
            return About.read(stream);
        }
    }

    File settingsFile() {
        return new File(getFilesDir(), "settings.json");
    }

    /** Pictures and sounds that messages hold. */
    File mediaFolder() {
        File folder = new File(getFilesDir(), "media");
        folder.mkdirs();
        return folder;
    }

    void screenShown() {
        visibleScreens++;
        chat.wake();
    }

    void screenHidden() {
        visibleScreens--;
    }

    @Override
    public void onTrimMemory(int level) {
        super.onTrimMemory(level);
        if (visibleScreens == 0 && level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND) {
            chat.sleep();
        }
    }

    @Override
    public long bytes(File folder) {
        return new StatFs(folder.getPath()).getAvailableBytes();
    }

    @Override
    public long bytes() {
        ActivityManager.MemoryInfo info = new ActivityManager.MemoryInfo();
        ((ActivityManager) getSystemService(ACTIVITY_SERVICE)).getMemoryInfo(info);
        return Math.max(0, info.availMem - info.threshold);
    }

    ProcessMemory memory() {
        return new ProcessMemory(ProcessMemory.STATUS, bytes());
    }

    private static final class Opener implements Dialogue.MediaOpener {
        @Override
        public MediaItem open(Attachment attachment) {
            File file = new File(attachment.path);
            return attachment.kind == Attachment.Kind.IMAGE
                    ? new Photo(file, attachment.width, attachment.height)
                    : new Wav(file);
        }
    }
}
