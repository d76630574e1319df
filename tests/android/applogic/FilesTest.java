import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.BundleImport;
import org.palmtop.app.logic.ChatState.Phase;
import org.palmtop.app.logic.Entry;
import org.palmtop.app.logic.MediaFolder;
import org.palmtop.app.logic.ModelShelf;
import org.palmtop.app.logic.Settings;
import org.palmtop.app.logic.Starter;
import org.palmtop.app.logic.Transcript;
import org.palmtop.app.logic.Trouble;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.PalmtopBundle;

public final class FilesTest {
    private static final long PLENTY = 1L << 40;
    private final File home = new File(Check.folder(), "models");
    private final ModelShelf shelf = new ModelShelf(home, null, new File(Check.folder(), "chosen"));
    private final List<Long> seen = new ArrayList<Long>();
    private long free = PLENTY;

    private final BundleImport.FreeSpace freeSpace = new BundleImport.FreeSpace() {
        @Override
        public long bytes(File folder) {
            return free;
        }
    };

    private static BundleImport.Source source(final File folder) {
        return new BundleImport.Source() {
            @Override
            public InputStream open(String path) throws IOException {
                return new FileInputStream(new File(folder, path));
            }
        };
    }

    private final BundleImport.Progress progress = new BundleImport.Progress() {
        @Override
        public void onBytes(long done, long total) {
            Check.that(done <= total && (seen.isEmpty() || done > seen.get(seen.size() - 1)), done);
            seen.add(done);
        }
    };

    private Throwable failure(File from) {
        seen.clear();
        try {
            new BundleImport(shelf, freeSpace).run(source(from), "model", progress);
        } catch (IOException error) {
            return error;
        } catch (PalmtopException error) {
            return error;
        }
        throw new AssertionError("imported");
    }

    private void isEmpty() {
        File[] left = home.listFiles();
        Check.that(left == null || left.length == 0, Arrays.toString(left));
    }

    public void aModelIsCopiedWholeAndChecked() throws IOException {
        File folder = new BundleImport(shelf, freeSpace).run(source(Check.bundle()), "my/model: one", progress);
        Check.same("my-model- one", folder.getName());
        PalmtopBundle bundle = PalmtopBundle.open(folder);
        bundle.checkHashes(null, null);
        Check.same(bundle.sizeBytes(), seen.get(seen.size() - 1));
        File second = new BundleImport(shelf, freeSpace).run(source(Check.bundle()), "my/model: one", progressless());
        Check.same("my-model- one 2", second.getName());
        Check.same(2, shelf.models().size());
        Check.same(folder, shelf.chosen());
        shelf.choose(second);
        Check.same(second, shelf.chosen());
        Check.that(shelf.delete(second), "not deleted");
        Check.same(folder, shelf.chosen());
    }

    private static BundleImport.Progress progressless() {
        return new BundleImport.Progress() {
            @Override
            public void onBytes(long done, long total) {}
        };
    }

    public void aChangedByteIsFoundAndNothingIsLeft() throws IOException {
        File copy = Check.copyOfBundle();
        byte[] bytes = Check.bytes(new File(copy, "weights/decoder.bin"));
        bytes[777] ^= 4;
        Check.write(new File(copy, "weights/decoder.bin"), bytes);
        Throwable error = failure(copy);
        Check.same(Trouble.MODEL_DAMAGED, Trouble.of(error));
        Check.that(error.getMessage().contains("'weights/decoder.bin' has sha256"), error);
        isEmpty();
    }

    public void aShortAndALongFileAreFound() throws IOException {
        File copy = Check.copyOfBundle();
        byte[] bytes = Check.bytes(new File(copy, "vision.onnx"));
        Check.write(new File(copy, "vision.onnx"), Arrays.copyOf(bytes, bytes.length - 1));
        Check.that(failure(copy).getMessage().contains("has " + (bytes.length - 1) + " bytes"), failure(copy));
        Check.write(new File(copy, "vision.onnx"), Arrays.copyOf(bytes, bytes.length + 1));
        Check.that(failure(copy).getMessage().contains("has more, expected " + bytes.length), failure(copy));
        isEmpty();
    }

    public void aMissingFileIsNamed() throws IOException {
        File copy = Check.copyOfBundle();
        Check.that(new File(copy, "audio.onnx").delete(), "");
        Throwable error = failure(copy);
        Check.same("file 'audio.onnx' is missing", error.getMessage());
        Check.same(Trouble.MODEL_DAMAGED, Trouble.of(error));
        isEmpty();
    }

    public void aFolderThatIsNoModelIsUnreadable() {
        Check.same(Trouble.UNREADABLE, Trouble.of(failure(Check.folder())));
        isEmpty();
    }

    public void aManifestThatLeadsOutWritesNothing() throws IOException {
        File copy = Check.copyOfBundle();
        File manifest = new File(copy, "bundle.json");
        String text = new String(Check.bytes(manifest), "UTF-8");
        Check.that(text.contains("\"weights/vision.bin\""), text);
        Check.write(manifest, text.replace("\"weights/vision.bin\"", "\"../../evil\"").getBytes("UTF-8"));
        Check.write(new File(copy.getParentFile().getParentFile(), "evil"), new byte[] {1});
        Check.that(failure(copy).getMessage().contains("leads out of the bundle"), failure(copy));
        Check.that(!new File(home.getParentFile(), "evil").exists(), "written");
        isEmpty();
    }

    public void aFullPhoneIsToldBeforeAnythingIsWritten() {
        free = 5_000_000;
        Throwable error = failure(Check.bundle());
        Check.same(Trouble.STORAGE_FULL, Trouble.of(error));
        Check.that(error.getMessage().endsWith("5.0 MB are free"), error);
        Check.same(0, seen.size());
        isEmpty();
    }

    public void aPhoneThatFillsUpMeanwhileIsCalledFull() {
        Check.same(Trouble.STORAGE_FULL, Trouble.of(new IOException("write failed: ENOSPC (No space left on device)")));
        Check.same(Trouble.UNREADABLE, Trouble.of(new IOException("write failed: EIO (I/O error)")));
    }

    public void cancellingLeavesNothing() throws IOException {
        final BundleImport[] job = new BundleImport[1];
        job[0] = new BundleImport(shelf, freeSpace);
        File folder = job[0].run(source(Check.bundle()), "model", new BundleImport.Progress() {
            @Override
            public void onBytes(long done, long total) {
                job[0].cancel();
            }
        });
        Check.same(null, folder);
        isEmpty();
    }

    public void whatAKilledImportLeftIsSweptAndNeverShown() {
        Check.that(new File(home, ".unfinished-1/weights").mkdirs(), "");
        Check.same(0, shelf.models().size());
        shelf.sweep();
        isEmpty();
    }

    public void aDamagedModelIsListedWithItsTrouble() throws IOException {
        Check.copy(Check.bundle(), new File(home, "broken"));
        Check.that(new File(home, "broken/vision.onnx").delete(), "");
        ModelShelf.Model model = shelf.models().get(0);
        Check.same(null, model.bundle);
        Check.same(Trouble.MODEL_DAMAGED, model.trouble);
        Check.same(null, shelf.chosen());
    }

    private Starter starter(Phone phone, File mark) {
        BundleImport copier = new BundleImport(shelf, freeSpace);
        return new Starter(phone.chat, shelf, copier, source(Check.bundle()), "reference", mark);
    }

    public void theFirstStartUnpacksAndOpensTheModelAndTheNextOneDoesNot() throws IOException {
        Phone phone = new Phone();
        File mark = new File(Check.folder(), "mark");
        starter(phone, mark).run("1");
        phone.settle();
        Check.same(Phase.READY, phone.chat.state().phase);
        Check.same("reference", phone.chat.state().model);
        File manifest = new File(home, "reference/bundle.json");
        Check.that(manifest.setLastModified(1_000_000_000_000L), "");
        starter(phone, mark).run("1");
        Check.same(1_000_000_000_000L, manifest.lastModified());
        starter(phone, mark).run("2");
        phone.settle();
        Check.that(manifest.lastModified() != 1_000_000_000_000L, "an updated app kept the old model");
        Check.same(1, shelf.models().size());
    }

    public void aDeletedModelStaysDeleted() {
        Phone phone = new Phone();
        File mark = new File(Check.folder(), "mark");
        starter(phone, mark).run("1");
        phone.settle();
        shelf.delete(new File(home, "reference"));
        starter(phone, mark).run("1");
        Check.same(Phase.NO_MODEL, phone.chat.state().phase);
        Check.same(Trouble.MODEL_MISSING, phone.chat.state().trouble);
        isEmpty();
    }

    public void aFullPhoneAtTheFirstStartSaysSo() {
        Phone phone = new Phone();
        free = 0;
        starter(phone, new File(Check.folder(), "mark")).run("1");
        Check.same(Phase.NO_MODEL, phone.chat.state().phase);
        Check.same(Trouble.STORAGE_FULL, phone.chat.state().trouble);
        free = PLENTY;
        starter(phone, new File(Check.folder(), "mark")).run("1");
        phone.settle();
        Check.same(Phase.READY, phone.chat.state().phase);
    }

    public void aCutOrForeignTranscriptIsAnEmptyChat() throws IOException {
        File file = new File(Check.folder(), "chat.json");
        for (String text : new String[] {"", "{\"schema\":1,\"entries\":[{\"us", "[]", "{\"entries\":[{}]}", "7"}) {
            Check.write(file, text.getBytes("UTF-8"));
            Check.same(0, new Transcript(file).entries().size());
            Check.that(new Transcript(file).isDamaged(), text);
        }
    }

    public void aTranscriptKeepsEveryLetter() {
        File file = new File(Check.folder(), "chat.json");
        Transcript before = new Transcript(file);
        String text = "\"\\ \n\t\u0001 ä 漢 😀 \u2028";
        before.add(Entry.user(text, Arrays.asList(Attachment.audio("/s.wav", 1.5))));
        before.add(Entry.failure("x", Trouble.MEMORY, "why"));
        before.save();
        List<Entry> after = new Transcript(file).entries();
        Check.same(text, after.get(0).text);
        Check.same(1.5, after.get(0).attachments.get(0).seconds);
        Check.same(Trouble.MEMORY, after.get(1).trouble);
    }

    public void settingsComeBackAndImpossibleOnesAreMended() throws IOException {
        File file = new File(Check.folder(), "settings.json");
        new Settings("Say \"hi\"", false, 0.35, 7, 0.5, 1.2, 99, "vision").save(file);
        Settings back = Settings.load(file);
        Check.same("Say \"hi\"", back.systemPrompt);
        Check.same(0.35, back.temperature);
        Check.same(99, back.maxTokens);
        Check.same("vision", back.adapter);
        Check.that(!back.isAsModel, "chosen values come back as chosen");
        new Settings().save(file);
        Check.that(Settings.load(file).isAsModel, "the model's own stay so");
        Settings odd = new Settings("", false, Double.NaN, -3, 9, 0, 1 << 30, "");
        odd.options();
        Check.same(0.0, odd.temperature);
        Check.same(1.0, odd.topP);
        Check.same(Settings.MAX_ANSWER_TOKENS, odd.maxTokens);
        Check.write(file, "{}".getBytes("UTF-8"));
        Check.same(256, Settings.load(file).maxTokens);
    }

    public void mediaThatNoMessageHoldsIsSwept() throws IOException {
        File folder = Check.folder();
        Check.write(new File(folder, "kept.wav"), new byte[1]);
        Check.write(new File(folder, "left.wav"), new byte[1]);
        Attachment kept = Attachment.audio(new File(folder, "kept.wav").getPath(), 1);
        MediaFolder.sweep(folder, Collections.singletonList(Entry.user("", Collections.singletonList(kept))));
        Check.same("[kept.wav]", Arrays.toString(folder.list()));
    }

    public void aCopyThatWouldFillThePhoneIsRefusedAndRemoved() throws IOException {
        File folder = Check.folder();
        File big = new File(Check.bundle(), "weights/decoder.bin");
        try (InputStream stream = new FileInputStream(big)) {
            MediaFolder.copy(stream, folder, "x", (64L << 20) + 1000);
            throw new AssertionError("copied");
        } catch (Trouble.OutOfStorage error) {
            Check.same(Trouble.STORAGE_FULL, Trouble.of(error));
        }
        Check.same(0, folder.list().length);
    }
}
