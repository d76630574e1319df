package org.palmtop.app;

import android.net.Uri;
import android.os.Handler;
import android.os.Looper;
import android.widget.Toast;
import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.util.List;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.Example;
import org.palmtop.app.logic.MediaFolder;
import org.palmtop.app.logic.Offers;
import org.palmtop.app.logic.SoundImport;
import org.palmtop.app.logic.Trouble;
import org.palmtop.app.logic.Wav;

/** Makes files of the app's own from what was picked, photographed or shared, and offers them to the chat. */
final class Intake implements Offers.Listener {
    private final PalmtopApp app;
    private final Handler main = new Handler(Looper.getMainLooper());
    private final SoundImport sounds = new SoundImport(new PlatformSounds());

    Intake(PalmtopApp app) {
        this.app = app;
    }

    /** Copy a file of another app, away from the main thread, and offer it. */
    void take(final Uri picked, final Attachment.Kind kind) {
        work(new Reading() {
            @Override
            public Attachment read() throws IOException {
                File file;
                try (InputStream stream = open(picked)) {
                    file = copy(stream, (kind == Attachment.Kind.IMAGE ? "picture-" : "sound-") + System.nanoTime());
                }
                return kind == Attachment.Kind.IMAGE
                        ? look(file)
                        : sounds.take(file, app.offers().limitSeconds(), app.bytes(app.mediaFolder()));
            }
        });
    }

    /** Offer a photo that the camera app has written. */
    void take(final File photo) {
        work(new Reading() {
            @Override
            public Attachment read() throws IOException {
                return look(photo);
            }
        });
    }

    private interface Reading {
        Attachment read() throws IOException;
    }

    private void work(final Reading reading) {
        app.offers().readingBegins();
        app.fileWorker().execute(new Runnable() {
            @Override
            public void run() {
                try {
                    app.offers().add(reading.read(), Intake.this);
                } catch (IOException error) {
                    failed(error);
                } catch (RuntimeException error) { // the other app took its permission back, or failed
                    failed(error);
                } finally {
                    app.offers().readingEnds();
                }
            }
        });
    }

    private void failed(Exception error) {
        tell(Words.of(app, Trouble.of(error), Trouble.detail(error)));
    }

    @Override
    public void onOutcome(Attachment attachment, Trouble refusal, String detail) {
        if (refusal != null) {
            new File(attachment.path).delete();
            tell(Words.of(app, refusal, detail));
        }
    }

    /** The screen that asked may be closed by now. */
    private void tell(final String words) {
        main.post(new Runnable() {
            @Override
            public void run() {
                Toast.makeText(app, words, Toast.LENGTH_LONG).show();
            }
        });
    }

    /** An example's picture or sound, from the app's assets. */
    Attachment asset(String name) throws IOException {
        try (InputStream stream = app.getAssets().open("samples/" + name)) {
            File file = copy(stream, "example-" + System.nanoTime() + "-" + name);
            return name.endsWith(".wav") ? Attachment.audio(file.getPath(), Wav.seconds(file)) : Photo.look(file);
        }
    }

    List<Example> examples() throws IOException {
        try (InputStream stream = app.getAssets().open("samples/samples.json")) {
            return Example.read(stream);
        }
    }

    private static Attachment look(File file) throws IOException {
        boolean isTaken = false;
        try {
            Attachment picture = Photo.look(file);
            if (Photo.isTooLarge(picture)) {
                throw new Trouble.PhotoTooLarge(picture.width, picture.height);
            }
            isTaken = true;
            return picture;
        } finally {
            if (!isTaken) {
                file.delete();
            }
        }
    }

    private InputStream open(Uri picked) throws IOException {
        InputStream stream = app.getContentResolver().openInputStream(picked);
        if (stream == null) {
            throw new FileNotFoundException("the file is not there any more");
        }
        return stream;
    }

    private File copy(InputStream stream, String name) throws IOException {
        return MediaFolder.copy(stream, app.mediaFolder(), name, app.bytes(app.mediaFolder()));
    }
}
